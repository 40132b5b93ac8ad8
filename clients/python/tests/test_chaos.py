"""Mirrors, writers and announcers in processes of their own, while everything between them breaks.

The daemon is killed, stopped and started again, sometimes as after a reboot. Between it and the processes
stands a proxy that cuts connections at any byte and holds bytes back. The daemon remembers few deletions, so
who lags has to compare. Now and then there is a quiet point: nothing breaks, everybody pauses, and then each
mirror is exactly the keyspace, revisions included; each writer finds what it was told; everything announced is
there, and in the end nothing else; and a counter has counted each success, and no more besides than the
increments whose fate is unknown. What the processes do stands in `chaos_parts.py`.

It takes 8 seconds, or as many as NKV_CHAOS_SECONDS says. What happens is drawn from a seed, which is printed
where it fails; NKV_CHAOS_SEED sets it. It draws the same faults and requests again, but the system decides
when they meet. Where it fails it says as well what it was doing, how the daemon, the proxy and each process
were then, and where the threads and tasks of the processes stood.
"""

from __future__ import annotations

import json
import os
import pathlib
import queue
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest
from typing import Any, Dict, List

import nkv
from chaos_parts import COUNTER, digest
from support import PATIENCE, Daemon, process_state, until

PARTS = pathlib.Path(__file__).with_name("chaos_parts.py")


class Child:
    """A process that plays a part."""

    def __init__(self, kind: str, part: str, name: str, seed: str, address: str) -> None:
        self.name = f"{kind} {part} {name}"
        self._process = subprocess.Popen(
            [sys.executable, str(PARTS), kind, part, name, seed, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._last_order = ""
        self._answers: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self._answers.put(json.loads(line))
        self._answers.put(None)

    def order(self, order: str) -> None:
        assert self._process.stdin is not None
        self._last_order = order
        try:
            self._process.stdin.write(f"{order}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # It shows by its missing answer.

    def answer(self) -> Any:
        try:
            answer = self._answers.get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError(f"{self.name} has not answered {self._last_order!r}") from None
        assert answer is not None, f"{self.name} has ended, and has said why"
        return answer

    def report(self) -> None:
        """Says how it is, and has it say where it stands."""
        _say(f"{self.name}: last told {self._last_order!r}, {process_state(self._process)}")
        if self._process.poll() is None:
            for number in (signal.SIGUSR1, signal.SIGUSR2):
                self._process.send_signal(number)
                time.sleep(0.2)  # so that the processes don't talk over each other

    def ask(self, order: str) -> Any:
        self.order(order)
        return self.answer()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


class Proxy:
    """What stands between the daemon and its clients: a socket that breaks."""

    def __init__(self, path: str, daemon: str, seed: str) -> None:
        self.path = path
        self._daemon = daemon
        self._seed = seed
        self._lock = threading.Lock()
        self.is_calm = True
        self.live = self.cuts = self.bytes = 0
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def end(self) -> None:
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            daemon = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                daemon.connect(self._daemon)
            except OSError:
                client.close()
                daemon.close()
                continue
            # Who does not read is soon left behind.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 10)
            number += 1
            with self._lock:
                self.live += 1
            ends = [0]
            for direction in [(client, daemon), (daemon, client)]:
                chance = random.Random(f"{self._seed} {number} {direction[0] is client}")
                threading.Thread(
                    target=self._pump, args=(*direction, chance, ends), daemon=True
                ).start()

    def _pump(
        self, source: socket.socket, sink: socket.socket, chance: random.Random, ends: List[int]
    ) -> None:
        # Of any magnitude: within the greeting, within the first request or its answer, after many.
        magnitude = 1 << (7 + chance.randrange(12))
        left = magnitude + chance.randrange(magnitude)
        is_cut = False
        while not is_cut:
            try:
                data = source.recv(1 + chance.randrange(16 << 10))
            except OSError:
                break
            if not data:
                break
            if not self.is_calm:
                if chance.randrange(200) == 0:
                    time.sleep(chance.uniform(0, 0.06))
                is_cut = len(data) > left
                data = data[:left]
                left -= len(data)
            try:
                sink.sendall(data)
            except OSError:
                break
            self.bytes += len(data)
        for plug in (source, sink):
            try:
                plug.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        with self._lock:
            self.cuts += is_cut
            ends[0] += 1
            if ends[0] == 2:
                self.live -= 1
                source.close()
                sink.close()


class Storm:
    """The course of a run."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._random = random.Random(seed)
        # Few deletions are remembered, so that who lags has to begin anew.
        self._daemon = Daemon(
            "--tombstones", "16", "--send-buffer", "4k", "--sync", "interval=50", keeps=True
        )
        path = os.path.join(self._daemon.directory, "proxy.sock")
        self._proxy = Proxy(path, self._daemon.socket, seed)
        self._reboots = 0
        self._begun = time.monotonic()
        self._doing = "the start"
        self.faults: Dict[str, int] = {}

        def start(part: str, count: int) -> List[Child]:
            kinds = ["blocking", "asyncio"] * count
            return [
                Child(kind, part, str(number), seed, path)
                for number, kind in enumerate(kinds[: 2 * count])
            ]

        self._writers = start("writer", 1)
        self._announcers = start("announcer", 1)
        self._mirrors = start("mirror", 1) + start("follower", 1)

    def end(self) -> None:
        for child in self._writers + self._announcers + self._mirrors:
            child.end()
        self._proxy.end()
        self._daemon.__exit__()

    def report(self) -> None:
        """Says what there is to know where it has failed."""
        lasted = time.monotonic() - self._begun
        proxy = self._proxy
        _say(f"{lasted:.1f} s after the start, during {self._doing}; faults so far: {self.faults}")
        _say(f"load: {os.getloadavg()}; the daemon is {self._daemon.state()}, and said:")
        _say("".join(self._daemon.log))
        _say(
            f"proxy: calm {proxy.is_calm}, {proxy.live} connections, {proxy.cuts} cuts, "
            f"{proxy.bytes} bytes"
        )
        for child in self._writers + self._announcers + self._mirrors:
            child.report()
        try:
            with nkv.Client.connect(self._daemon.socket, reply_timeout=5) as client:
                _say(f"the daemon's clients: {client.clients()}")
        except nkv.Error as error:
            _say(f"the daemon does not tell its clients: {error}")

    def run(self, seconds: float) -> str:
        """Breaks things for so long, with quiet points in between and at the end."""
        end, quiet_points = time.monotonic() + seconds, 0
        while time.monotonic() < end or quiet_points < 2:
            self._proxy.is_calm = False
            for _ in range(self._random.randrange(2, 6)):
                self._progress()
                self._fault()
            self._progress()
            self._doing = f"quiet point {quiet_points}"
            self._quiet()
            quiet_points += 1
            for child in self._writers + self._announcers:
                child.order("go")
        told = self._finish()
        return (
            f"{quiet_points} quiet points, {self._proxy.cuts} cuts, "
            f"{self._proxy.bytes >> 10} KiB, {self.faults}, {told}"
        )

    def _progress(self) -> None:
        until_bytes = self._proxy.bytes + self._random.randrange(1 << 18)
        self._doing = f"the wait for byte {until_bytes}"
        until("bytes pass", lambda: self._proxy.bytes >= until_bytes)

    def _fault(self) -> None:
        kind = self._random.choice(["kill", "kill", "stop", "reboot", "", ""])
        # However short it is, some of each is there.
        kind = next((kind for kind in ["reboot", "kill"] if kind not in self.faults), kind)
        if not kind:
            return
        self.faults[kind] = self.faults.get(kind, 0) + 1
        self._doing = f"the fault {kind}"
        self._end_daemon(kind)
        if kind == "reboot":
            # What goes with the machine.
            shutil.rmtree(self._daemon.runtime)
            self._reboots += 1
        # At times for longer than some have patience.
        time.sleep(self._random.uniform(0, self._random.choice([0.06, 0.06, 0.6])))
        self._daemon.start()

    def _end_daemon(self, kind: str) -> None:
        if kind == "kill" or (kind == "reboot" and self._random.random() < 0.5):
            self._daemon.kill()
        else:
            self._daemon.stop()

    def _quiet(self) -> List[Dict[str, int]]:
        self._proxy.is_calm = True
        for child in self._writers + self._announcers:
            child.order("pause")
        counts = [writer.answer() for writer in self._writers]
        announced = [announcer.answer() for announcer in self._announcers]
        # Whoever is to come back does so while nobody asks anything.
        if self._random.random() < 0.5:
            self._end_daemon(self._random.choice(["kill", "stop"]))
            self._daemon.start()
        with nkv.Client.connect(self._daemon.socket) as client:
            # Whoever has been cut off is forgotten, so nothing more of him is carried out.
            until("all are forgotten", lambda: len(client.clients()) == self._proxy.live + 1)
            for writer in self._writers:
                writer.order(f"check {self._reboots}")
            self._reboots = 0
            for writer in self._writers:
                writer.answer()
            for told in announced:
                for key, value in told.items():
                    until(f"{key} is {value}", lambda: _value(client, key) == value)
            count = _value(client, COUNTER) or 0
            low = sum(success for success, _ in counts)
            high = low + sum(unknown for _, unknown in counts)
            assert low <= count <= high, f"{count} counted, and not {low} to {high}"
            self._compare_mirrors(client)
        return announced

    def _compare_mirrors(self, client: nkv.Client) -> None:
        for mirror in self._mirrors:

            def is_same() -> bool:
                entries = client.list()
                expected = digest((entry.key, entry.rev, entry.raw) for entry in entries)
                return bool(mirror.ask("state") == expected)

            until(f"{mirror.name} is the keyspace", is_same)

    def _finish(self) -> str:
        """The last quiet point, at which nothing may be there that nobody announces."""
        self._doing = "the last quiet point"
        announced = self._quiet()
        expected = sorted(key for told in announced for key in told)
        with nkv.Client.connect(self._daemon.socket) as client:
            until("only that is there", lambda: client.keys("here.*") == expected)
            self._compare_mirrors(client)
        accounts = {mirror.name: mirror.ask("end") for mirror in self._mirrors}
        # Otherwise nothing was shown.
        assert self._proxy.cuts > 0, "no connection was cut"
        behind = [name for name, (_, resets, _) in accounts.items() if resets > 1]
        assert behind, "nobody was ever left behind"
        return f"cuts, resets, changes: {accounts}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _value(client: nkv.Client, key: str) -> Any:
    entry = client.get(key)
    return None if entry is None else entry.value


class Chaos(unittest.TestCase):
    def test_what_is_mirrored_written_and_announced_holds(self) -> None:
        seed = os.environ.get("NKV_CHAOS_SEED") or str(random.randrange(1_000_000))
        seconds = float(os.environ.get("NKV_CHAOS_SECONDS") or 8)
        storm = Storm(seed)
        try:
            told = storm.run(seconds)
        except BaseException:
            _say(f"NKV_CHAOS_SEED={seed}")
            storm.report()
            raise
        finally:
            storm.end()
        print(f"chaos, seed {seed}: {told}", file=sys.stderr)


if __name__ == "__main__":
    unittest.main()
