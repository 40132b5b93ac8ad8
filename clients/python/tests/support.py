"""What the tests share: a daemon, a peer that follows a script, and one scenario for both clients.

Everything that waits waits for an event or polls with a deadline. `PATIENCE` is no part of any test's
meaning; it only makes a failure of what would be a hang.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections import deque
from typing import Any, Callable, Deque, List, Optional

import nkv
import nkv.aio
from nkv._threads import run

PATIENCE = 60.0
ROOT = pathlib.Path(__file__).resolve().parents[3]

GREETING = (
    '{"id":1,"ok":true,"server":"nkv/9.9","protocol":1,"epoch":"e1","rev":41,'
    '"limits":{"message":1048576}}'
)


def skip(reason: str) -> None:
    """Says that a test can't be made here. In CI nothing is skipped."""
    if os.environ.get("CI") == "true":
        raise AssertionError(f"nothing may be skipped here: {reason}")
    raise unittest.SkipTest(reason)


def server() -> str:
    """The daemon's program."""
    wanted = os.environ.get("NKV_SERVER")
    built = [ROOT / "target" / kind / "nkv-server" for kind in ("release", "debug")]
    found = [wanted] if wanted else [str(path) for path in built if path.exists()]
    if not found:
        skip("no nkv-server: build it, or say by NKV_SERVER where it is")
    return found[0]


def until(what: str, is_so: Callable[[], Any]) -> Any:
    """Waits for something that nobody announces."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = is_so()
        if found:
            return found
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.002)


class Daemon:
    """The built daemon, with a directory of its own. It keeps files where it is asked to."""

    def __init__(self, *options: str, keeps: bool = False, address: str = "") -> None:
        self.directory = tempfile.mkdtemp(prefix="nkv-python-")
        self.socket = os.path.join(self.directory, "nkv.sock")
        self.runtime = os.path.join(self.directory, "run")
        data = os.path.join(self.directory, "data")
        kept = ["--data-dir", data, "--runtime-dir", self.runtime] if keeps else ["--in-memory"]
        self._command = [server(), *kept, *options, self.socket]
        if address:
            self._command.append(address)
        self.address = ""
        self.log: Deque[str] = deque(maxlen=50)
        """The last lines that it has said, of all its runs."""
        self._process: Optional[subprocess.Popen[str]] = None
        self.start()

    def start(self) -> None:
        """Starts it, and waits until it serves."""
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.log.append(line)
            if "tcp:" in line or "127.0.0.1:" in line:
                self.address = "127.0.0.1:" + line.split("127.0.0.1:")[1].split()[0].strip(",;")
            if "keeping " in line:
                # Its log is read to the end, so that it never waits for a reader.
                rest = self._process.stderr
                threading.Thread(target=self._read, args=(rest,), daemon=True).start()
                return
        raise AssertionError(f"the daemon does not serve: {''.join(self.log)}")

    def _read(self, log: Any) -> None:
        with log:
            self.log.extend(log)

    def state(self) -> str:
        """What there is to know of the process."""
        assert self._process is not None
        return process_state(self._process)

    def end(self, kind: signal.Signals) -> None:
        """Ends it by a signal."""
        assert self._process is not None
        self._process.send_signal(kind)
        self._process.wait(PATIENCE)

    def kill(self) -> None:
        """Ends it at once."""
        self.end(signal.SIGKILL)

    def stop(self) -> None:
        """Lets it stop cleanly."""
        self.end(signal.SIGTERM)

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self.directory)


def process_state(process: Any) -> str:
    """Whether a process runs, and in what state it is."""
    if process.poll() is not None:
        return f"process {process.pid} has ended with {process.returncode}"
    try:
        stat = pathlib.Path(f"/proc/{process.pid}/stat").read_text()
        state = stat.rpartition(")")[2].split()
        return f"process {process.pid}: {state[0]}, {state[11]} + {state[12]} ticks of processor time"
    except OSError:
        return f"process {process.pid} runs"


class Peer:
    """The script's side of a connection."""

    def __init__(self, plug: socket.socket) -> None:
        plug.settimeout(PATIENCE)
        self.plug = plug
        self._reader = plug.makefile("rb")

    def hello(self, epoch: str = "e1") -> None:
        """Takes a greeting and answers it."""
        line = self.line()
        assert line.startswith('{"id":1,"op":"hello","client":"'), line
        self.say(GREETING.replace("e1", epoch))

    def line(self) -> str:
        """The next line, which must come."""
        line = self._reader.readline().decode()
        assert line.endswith("\n"), "the client has hung up"
        return line[:-1]

    def rest(self) -> str:
        """Everything until the client hangs up."""
        try:
            return self._reader.read().decode()
        except ConnectionError:
            return ""

    def say(self, *lines: str) -> None:
        """Says lines. A client that has hung up does not mind."""
        self.write("".join(f"{line}\n" for line in lines).encode())

    def write(self, data: bytes) -> None:
        """Writes bytes."""
        try:
            self.plug.sendall(data)
        except OSError:
            pass

    def close(self) -> None:
        """Hangs up."""
        self._reader.close()
        self.plug.close()

    def expect(self, line: str, answer: str) -> None:
        """Takes this request (told without its id), and answers with these fields."""
        request = self.line()
        number, _, body = request[len('{"id":') :].partition(",")
        assert "{" + body == line, f"{request} instead of {line}"
        self.say(f'{{"id":{number},"ok":true{answer}}}')


class FakeDaemon:
    """Listens, and gives each connection to the next script. What fails in one fails the test."""

    def __init__(self, *scripts: Callable[[Peer], None]) -> None:
        self._directory = tempfile.mkdtemp(prefix="nkv-python-")
        self.address = os.path.join(self._directory, "nkv.sock")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.address)
        self._listener.listen(16)
        self._failures: List[BaseException] = []
        self._thread = threading.Thread(target=self._serve, args=(scripts,), daemon=True)
        self._thread.start()

    def _serve(self, scripts: Any) -> None:
        for script in scripts:
            try:
                plug, _ = self._listener.accept()
            except OSError:
                self._failures.append(AssertionError("a connection was not made"))
                return
            peer = Peer(plug)
            try:
                script(peer)
            except BaseException as error:
                self._failures.append(error)
            finally:
                peer.close()

    async def __aenter__(self) -> FakeDaemon:
        return self

    async def __aexit__(self, kind: Any, *_: object) -> None:
        try:
            # Not in the loop's thread: the loop has to go on, so that its sockets are closed.
            await asyncio.get_running_loop().run_in_executor(None, self._end, kind is None)
        except RuntimeError:
            self._end(kind is None)

    def _end(self, is_well: bool) -> None:
        if is_well:
            self._thread.join(5.0)
        is_over = not self._thread.is_alive()
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        shutil.rmtree(self._directory)
        if self._failures:
            raise self._failures[0]
        if is_well and not is_over:
            raise AssertionError("the script was not played to its end")


class Awaited:
    """A blocking client's object with the asynchronous one's manners, so that one scenario is for both."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._kind = getattr(nkv.aio, type(inner).__name__)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found
        if not inspect.iscoroutinefunction(getattr(self._kind, name, None)):
            return lambda *args, **named: _wrapped(found(*args, **named))

        async def call(*args: Any, **named: Any) -> Any:
            return _wrapped(found(*args, **named))

        return call

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        try:
            return next(self._inner)
        except StopIteration:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Any:
        self._inner.__enter__()
        return self

    async def __aexit__(self, *told: Any) -> None:
        self._inner.__exit__(*told)

    def __len__(self) -> int:
        return len(self._inner)

    def __getitem__(self, key: str) -> Any:
        return self._inner[key]

    def __contains__(self, key: str) -> bool:
        return key in self._inner


def _wrapped(found: Any) -> Any:
    return Awaited(found) if type(found).__module__ == "nkv._blocking" else found


class Blocking:
    """Makes clients that block."""

    name = "blocking"

    def link(self, *args: Any, **options: Any) -> Any:
        return Awaited(nkv.Link(*args, **options))

    async def connect(self, *args: Any, **options: Any) -> Any:
        return Awaited(nkv.Client.connect(*args, **options))

    def within(self, thing: Any) -> Any:
        """What decides."""
        return thing._inner._within

    async def apart(self, work: Callable[[], Any]) -> Any:
        """Starts something, and gives what waits for it."""
        outcome: List[Any] = []

        def play() -> None:
            try:
                outcome.append((run(work()), None))
            except BaseException as error:
                outcome.append((None, error))

        thread = threading.Thread(target=play, daemon=True)
        thread.start()

        async def end() -> Any:
            thread.join(PATIENCE)
            value, error = outcome[0]
            if error is not None:
                raise error
            return value

        return end

    async def blocked(self, work: Callable[[], Any]) -> Any:
        """Waits for something that blocks."""
        return work()


class Asyncio:
    """Makes clients for asyncio."""

    name = "asyncio"

    def link(self, *args: Any, **options: Any) -> Any:
        return nkv.aio.Link(*args, **options)

    async def connect(self, *args: Any, **options: Any) -> Any:
        return await nkv.aio.Client.connect(*args, **options)

    def within(self, thing: Any) -> Any:
        """What decides."""
        return thing

    async def apart(self, work: Callable[[], Any]) -> Any:
        """Starts something, and gives what waits for it."""
        task = asyncio.get_running_loop().create_task(work())

        async def end() -> Any:
            return await asyncio.wait_for(task, PATIENCE)

        return end

    async def blocked(self, work: Callable[[], Any]) -> Any:
        """Waits for something that blocks."""
        return await asyncio.get_running_loop().run_in_executor(None, work)


class Case(unittest.TestCase):
    """Scenarios that are played twice."""

    def play(self, scenario: Callable[[Any], Any]) -> None:
        """Plays a scenario, a coroutine function of a world, with both clients."""
        with self.subTest(world="blocking"):
            run(scenario(Blocking()))
        with self.subTest(world="asyncio"):
            asyncio.run(asyncio.wait_for(scenario(Asyncio()), PATIENCE))


def members(text: str) -> List[Any]:
    """The members of a JSON object: names, with their values as they are written."""
    decoder = json.JSONDecoder()
    found, at = [], 1
    while text[at] != "}":
        name, at = decoder.raw_decode(text, at)
        start = at + 1
        _, at = decoder.raw_decode(text, start)
        found.append((name, text[start:at]))
        at += text[at] == ","
    return found


if sys.version_info < (3, 9):
    raise SystemExit("Python 3.9 is needed")
