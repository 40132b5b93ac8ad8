"""The processes of the chaos test: each plays a part, over either client, and obeys lines on its input.

`writer` changes keys of its own in every way there is and knows what must have come of it; all writers
increment one counter. `announcer` announces, changes and takes back. `mirror` has a mirror and holds every cut
against what was told before; `follower` has one that moves when asked, and is slow.

Of each key a writer knows what was last acknowledged, and what may be there besides: whatever was reported
with an unknown fate. What was refused or not sent is in neither, so it must not be there.
"""

from __future__ import annotations

import asyncio
import faulthandler
import hashlib
import json
import os
import queue
import random
import signal
import sys
import threading
import time
import traceback
from typing import Any, Dict, Iterable, List, Optional, Tuple

import nkv
from nkv._threads import run
from support import Asyncio, Blocking

SINGLES = 14
GROUP = ["a", "b", "c"]
COUNTER = "counter"


class Stage:
    """What a part has to be played with."""

    def __init__(self, world: Any, link: Any, name: str, seed: str) -> None:
        self.world = world
        self.link = link
        self.name = name
        self.random = random.Random(f"{seed} {name}")
        self.orders: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            self.orders.put(line.strip())
        # The test has ended.
        os._exit(0)

    async def order(self) -> str:
        """Waits for an order."""
        found: str = await self.world.blocked(self.orders.get)
        return found

    def orders_now(self) -> List[str]:
        """The orders that are there."""
        found = []
        while not self.orders.empty():
            found.append(self.orders.get())
        return found

    async def pause(self, longest: float) -> None:
        """Does nothing for a while."""
        pause = self.random.uniform(0, longest)
        if self.world.name == "blocking":
            time.sleep(pause)
        else:
            await asyncio.sleep(pause)


def say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


def digest(entries: Iterable[Tuple[str, int, Any]]) -> str:
    """The sum over keys, revisions and values."""
    total = hashlib.sha256()
    for key, rev, raw in sorted(entries):
        total.update(repr((key, rev, raw)).encode())
    return total.hexdigest()


class Writer:
    """See above."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.link = stage.link
        self.random = stage.random
        self.name = f"w.{stage.name}"
        self.generation = 0
        self.settled: Dict[str, Tuple[Any, int]] = {}
        self.maybes: Dict[str, List[Any]] = {}
        self.successes = 0
        self.unknowns = 0

    async def play(self) -> None:
        while True:
            for order in self.stage.orders_now():
                assert order == "pause", order
                say([self.successes, self.unknowns])
                order = await self.stage.order()
                await self.check(has_rebooted=order != "check 0")
                say("as it should be")
                assert await self.stage.order() == "go"
            await self.act()
            if self.random.random() < 0.1:
                await self.stage.pause(0.01)

    async def act(self) -> None:
        kinds = [self.put] * 4 + [self.put_if_changed] + [self.put_if_rev] * 2
        kinds += [self.delete] * 2 + [self.delete_all] + [self.put_group] * 2
        await self.random.choice(kinds + [self.delete_group, self.increment])()

    async def put(self) -> None:
        key, value = self.key(), self.value()
        await self.note({key: value}, self.link.put(key, value, lifetime=lifetime(key)))

    async def put_if_changed(self) -> None:
        key, value = self.key(), self.value()
        if key in self.settled and self.random.random() < 0.5:
            value = self.settled[key][0]
        put = self.link.put(key, value, lifetime=lifetime(key), if_changed=True)
        await self.note({key: value}, put)

    async def put_if_rev(self) -> None:
        key, value = self.key(), self.value()
        rev = self.settled.get(key, (None, 0))[1]
        is_certain = not self.maybes.get(key) and lifetime(key) == "durable"
        put = self.link.put(key, value, lifetime=lifetime(key), if_rev=rev)
        error = await self.note({key: value}, put)
        assert not (is_certain and isinstance(error, nkv.Conflict)), f"{key} was at {rev}: {error}"

    async def delete(self) -> None:
        key = self.key()
        await self.note({key: None}, self.link.delete(key))

    async def delete_all(self) -> None:
        keys = [f"{self.name}.one.{number}" for number in range(SINGLES)]
        await self.note(dict.fromkeys(keys), self.link.delete_matching(f"{self.name}.one.*"))

    async def put_group(self) -> None:
        value, batch = self.value(), nkv.Batch()
        group = {f"{self.name}.group.{letter}": value for letter in GROUP}
        for key in group:
            batch.put(key, value)
        await self.note(group, self.link.batch(batch))

    async def delete_group(self) -> None:
        group = dict.fromkeys(f"{self.name}.group.{letter}" for letter in GROUP)
        await self.note(group, self.link.batch(nkv.Batch().delete(f"{self.name}.group.*")))

    async def increment(self) -> None:
        try:
            await self.link.update(COUNTER, lambda count: count + 1, default=0)
            self.successes += 1
        except nkv.Unanswered:
            self.unknowns += 1
        except nkv.Error:
            pass

    async def note(self, values: Dict[str, Any], call: Any) -> Optional[nkv.Error]:
        try:
            done = await call
        except nkv.Unanswered as error:
            for key, value in values.items():
                self.maybes.setdefault(key, []).append(value)
            return error
        except nkv.Error as error:
            return error
        for key, value in values.items():
            if value is None:
                self.settled.pop(key, None)
            else:
                # A batch tells no revision of each change.
                rev = done.rev if isinstance(done, nkv.Written) else 0
                self.settled[key] = (value, rev)
        return None

    async def check(self, has_rebooted: bool) -> None:
        """Holds what is there against what is known."""
        while True:
            try:
                listed = await self.link.list(f"{self.name}.*")
                break
            except nkv.ConnectError:
                pass
        found = {entry.key: (entry.value, entry.rev) for entry in listed}
        for key in set(found) | set(self.settled) | set(self.maybes):
            value = found.get(key, (None,))[0]
            settled = self.settled.get(key, (None,))[0]
            is_gone = has_rebooted and value is None and lifetime(key) == "boot"
            assert value == settled or is_gone or value in self.maybes.get(key, []), (
                f"{key} holds {shown(value)}, last acknowledged was {shown(settled)}, "
                f"unknown is {[shown(maybe) for maybe in self.maybes.get(key, [])]}"
            )
        self.settled, self.maybes = found, {}

    def key(self) -> str:
        return f"{self.name}.one.{self.random.randrange(SINGLES)}"

    def value(self) -> Any:
        """One that was never there; at times bytes."""
        self.generation += 1
        if self.random.random() < 0.1:
            return self.generation.to_bytes(8, "big")
        longest = self.random.choice([100] * 35 + [4 << 10] * 4 + [100 << 10])
        return {"generation": self.generation, "filling": "x" * self.random.randrange(longest)}


def lifetime(key: str) -> str:
    number = key.rpartition(".")[2]
    return "boot" if number.isdigit() and int(number) % 2 == 0 else "durable"


def shown(value: Any) -> Any:
    return value["generation"] if isinstance(value, dict) else value


async def announcer(stage: Stage) -> None:
    announced: Dict[str, Tuple[Any, int]] = {}
    value = 0
    while True:
        for order in stage.orders_now():
            assert order == "pause", order
            say({key: told for key, (_, told) in announced.items()})
            assert await stage.order() == "go"
        value += 1
        key = f"here.{stage.name}.{stage.random.randrange(4)}"
        if key not in announced:
            try:
                announced[key] = (await stage.link.announce(key, value), value)
            except nkv.Error:
                pass
        elif stage.random.random() < 0.3:
            await announced.pop(key)[0].close()
        else:
            announcement = announced[key][0]
            announced[key] = (announcement, value)
            try:
                await announcement.set(value)
            except nkv.Error:
                # The value counts all the same.
                pass
        if stage.random.random() < 0.5:
            await stage.pause(0.05)


class Witness:
    """What a mirror has told, held against what it tells next."""

    def __init__(self) -> None:
        self.told: Dict[str, Any] = {}
        self.rev = self.cuts = self.resets = self.changes = 0

    def take(self, cut: Any) -> None:
        assert cut.rev >= self.rev, f"a cut at {cut.rev} after {self.rev}"
        last, groups = self.rev, set()
        for change in cut.changes:
            # Deletions that were found by comparing all have the cut's revision.
            is_found = cut.is_reset and change.rev == cut.rev == last
            assert last < change.rev <= cut.rev or is_found, (change.key, change.rev, last, cut.rev)
            last = change.rev
            if ".group." in change.key:
                groups.add(change.key.rpartition(".")[0])
            is_there = change.key in self.told
            old = self.told.get(change.key)
            if isinstance(change, nkv.Created):
                assert not is_there, f"{change.key} is created and was there"
                self.told[change.key] = change.value
                continue
            assert is_there and change.old == old, f"{change.key}: what was there before"
            if isinstance(change, nkv.Deleted):
                del self.told[change.key]
            else:
                assert isinstance(change, nkv.Modified), change
                assert change.value != old, f"{change.key} is modified and the same"
                self.told[change.key] = change.value
        for group in groups:
            values = [self.told.get(f"{group}.{letter}") for letter in GROUP]
            assert values[0] == values[1] == values[2], f"half a batch: {group} at {cut.rev}"
        self.rev = cut.rev
        self.cuts += 1
        self.resets += cut.is_reset
        self.changes += len(cut.changes)

    def state(self, view: Any) -> str:
        """The sum over the copy, if it has told all of it."""
        if not self.cuts or view.rev != self.rev:
            return "busy"
        assert dict(view) == self.told, "the copy is not what was told"
        return digest((key, held.rev, held.raw) for key, held in view.entries.items())

    def account(self) -> List[int]:
        return [self.cuts, self.resets, self.changes]


async def mirror(stage: Stage) -> None:
    witness, lock, failures = Witness(), threading.Lock(), []

    def take(cut: Any) -> Any:
        try:
            with lock:
                witness.take(cut)
        except BaseException:
            failures.append(traceback.format_exc())
            raise
        if stage.random.random() < 0.01:
            if stage.world.name == "blocking":
                time.sleep(stage.random.uniform(0, 0.5))
            else:
                return asyncio.sleep(stage.random.uniform(0, 0.5))
        return None

    copy = stage.link.mirror("*", on_cut=take)
    while True:
        order = await stage.order()
        with lock:
            assert not failures, failures[0]
            say(witness.state(copy.view()) if order == "state" else witness.account())


async def follower(stage: Stage) -> None:
    witness = Witness()
    copy = stage.link.follow("*")
    while True:
        cut = await copy.next(0.02)
        if cut is not None:
            witness.take(cut)
        # Long enough to be left behind.
        if stage.random.random() < 0.025:
            await stage.pause(2.0)
        for order in stage.orders_now():
            say(witness.state(copy.view()) if order == "state" else witness.account())


async def play(world: Any, part: str, name: str, seed: str, socket: str) -> None:
    if world.name == "asyncio":
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, show_tasks)
    # Less patience than a daemon may be away, so that calls fail as well.
    link = world.link(socket, name=f"{part} {name}", patience=0.15, pauses=(0.002, 0.1))
    stage = Stage(world, link, name, seed)
    if part == "writer":
        await Writer(stage).play()
    await {"announcer": announcer, "mirror": mirror, "follower": follower}[part](stage)


def show_tasks() -> None:
    """Says where each task stands."""
    for task in asyncio.all_tasks():
        task.print_stack(file=sys.stderr)


def main() -> None:
    kind, part, name, seed, socket = sys.argv[1:]
    # The test asks where a process stands that does not answer.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        if kind == "blocking":
            run(play(Blocking(), part, name, seed, socket))
        else:
            asyncio.run(play(Asyncio(), part, name, seed, socket))
    except BaseException:
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    main()
