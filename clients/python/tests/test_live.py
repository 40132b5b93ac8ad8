"""Both clients and the built daemon."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import tempfile
import threading
import unittest
from typing import Any, List

import nkv
import nkv.aio
from support import PATIENCE, Case, Daemon, until

QUICK = {"pauses": (0.002, 0.05)}


class Live(Case):
    def test_what_is_put_is_there(self) -> None:
        async def scenario(world: Any) -> None:
            with Daemon() as daemon:
                async with world.link(daemon.socket) as link:
                    key = nkv.key("größe", "edge-7.example.org", "温度 🌡")
                    for number, value in enumerate(
                        [
                            None,
                            True,
                            0,
                            -1.5,
                            "é\u2028\x00\ud83d\ude00",
                            [],
                            {"a": [1, {}]},
                            b"",
                            b"\x00\xff",
                        ]
                        + [10**40, "x" * 500_000, nkv.Json("1.00"), nkv.Json('{"a":1,"a":2}')]
                    ):
                        rev = (await link.put(key, value)).rev
                        entry = await link.get(key)
                        if isinstance(value, nkv.Json):
                            self.assertEqual((entry.raw, entry.value), (value, json.loads(value)))
                        elif value == "é\u2028\x00\ud83d\ude00":
                            self.assertEqual(json.loads(entry.raw), entry.value)
                        else:
                            self.assertEqual((entry.value, number + 1), (value, rev))
                        self.assertEqual((entry.key, entry.rev), (key, rev))
                    self.assertTrue(await link.delete(key))
                    self.assertFalse(await link.delete(key))
                    self.assertIsNone(await link.get(key))

        self.play(scenario)

    def test_lists_batches_and_conditions(self) -> None:
        async def scenario(world: Any) -> None:
            with Daemon() as daemon:
                async with world.link(daemon.socket) as link:
                    batch = nkv.Batch()
                    for number in range(2500):
                        batch.put(f"n.{number:04}", number)
                    self.assertEqual(await link.batch(batch), 2500)
                    self.assertEqual([e.value for e in await link.list("n.*")], list(range(2500)))
                    self.assertEqual(len(await link.keys()), 2500)
                    self.assertEqual(await link.list("n.none"), [])
                    self.assertEqual(await link.keys("n.0001"), ["n.0001"])
                    with self.assertRaises(nkv.Conflict) as told:
                        await link.batch(nkv.Batch().put("a", 1).check("n.0001", 1))
                    self.assertEqual((told.exception.at, told.exception.rev), (1, 2))
                    with self.assertRaises(nkv.Conflict) as told:
                        await link.put("n.0001", 1, if_rev=0)
                    self.assertEqual(told.exception.rev, 2)
                    self.assertEqual(await link.delete_matching("n.*"), 2500)
                    await link.put("t", 1, lifetime="session", ttl=1000)
                    entry = await link.get("t")
                    self.assertEqual(entry.lifetime, "session")
                    self.assertTrue(990 < entry.ttl <= 1000)
                    rev = await link.update("t", lambda value: value + 1)
                    entry = await link.get("t")
                    self.assertEqual((entry.value, entry.rev, entry.lifetime), (2, rev, "session"))
                    self.assertTrue(990 < entry.ttl <= 1000)
                    for wrong in [nkv.BadKey, nkv.BadRequest, nkv.TooLarge]:
                        with self.assertRaises(wrong):
                            if wrong is nkv.BadKey:
                                await link.put("a..b", 1)
                            elif wrong is nkv.BadRequest:
                                await link.put("a", 1, lifetime="durable", ttl=1)
                            else:
                                await link.put("a", "x" * (1 << 20))
                    self.assertEqual((await link.stats())["keys"], 1)
                    self.assertEqual(len(await link.clients()), 1)

        self.play(scenario)

    def test_a_counter_of_many_counts_each(self) -> None:
        with Daemon() as daemon:
            with nkv.Link(daemon.socket) as shared:

                def count() -> None:
                    for _ in range(20):
                        shared.update("n", lambda n: n + 1, default=0)

                threads = [threading.Thread(target=count) for _ in range(4)]
                for thread in threads:
                    thread.start()

                async def count_too() -> None:
                    async with nkv.aio.Link(daemon.socket) as link:
                        one = [link.update("n", lambda n: n + 1, default=0) for _ in range(20)]
                        await asyncio.gather(*one)

                asyncio.run(count_too())
                for thread in threads:
                    thread.join()
                entry = shared.get("n")
                assert entry is not None
                self.assertEqual(entry.value, 100)

    def test_a_mirror_follows_over_a_restart(self) -> None:
        async def scenario(world: Any) -> None:
            with Daemon(keeps=True) as daemon:
                told: List[str] = []
                async with world.link(daemon.socket, **QUICK) as link:
                    await link.put("c.a", 1)
                    mirror = link.mirror(
                        "c",
                        on_created=lambda key, value: told.append(f"+{key}={value}"),
                        on_modified=lambda key, value, old: told.append(f"{key}:{old}>{value}"),
                        on_deleted=lambda key, old: told.append(f"-{key}:{old}"),
                        on_synced=lambda: told.append("synced"),
                    )
                    await mirror.wait_until_synced(PATIENCE)
                    daemon.kill()
                    daemon.start()
                    await link.batch(nkv.Batch().put("c.a", 2).put("c.b", 3))
                    await mirror.wait_until(lambda view: "c.b" in view, PATIENCE)
                    await link.delete("c.a")
                    view = await mirror.wait_until(lambda view: "c.a" not in view, PATIENCE)
                    self.assertEqual(dict(view), {"c.b": 3})
                    await mirror.close()
                self.assertEqual(
                    [line for line in told if line != "synced"],
                    ["+c.a=1", "c.a:1>2", "+c.b=3", "-c.a:2"],
                )
                self.assertEqual(told.count("synced"), 2)

        self.play(scenario)

    def test_a_slow_handler_is_told_the_newest(self) -> None:
        async def scenario(world: Any) -> None:
            # The kernel and the client hold a little, which is why there are many changes.
            with Daemon("--send-buffer", "4k") as daemon:
                cuts: List[Any] = []
                gate = threading.Event()

                def slow(cut: Any) -> Any:
                    cuts.append(cut)
                    if world.name == "blocking":
                        gate.wait(PATIENCE)
                        return None
                    return asyncio.get_running_loop().run_in_executor(None, gate.wait, PATIENCE)

                async with world.link(daemon.socket) as link:
                    mirror = link.mirror("n", on_cut=slow)
                    await mirror.wait_until_synced(PATIENCE)
                    filling = "x" * 1000
                    for number in range(1000):
                        await link.put("n", [number, filling])
                    await world.blocked(gate.set)
                    view = await mirror.wait_until(
                        lambda view: view.get("n", [0])[0] == 999, PATIENCE
                    )
                    self.assertEqual(view.rev, 1000)
                self.assertLess(len(cuts), 500)

        self.play(scenario)

    def test_presence_and_claims_come_back(self) -> None:
        async def scenario(world: Any) -> None:
            with Daemon(keeps=True) as daemon:
                other = world.link(daemon.socket, **QUICK)
                async with world.link(daemon.socket, **QUICK) as link:
                    claim = await link.claim("mine")
                    rev = claim.rev
                    here = await link.announce("present.x", "starting")
                    await here.set("heating")
                    daemon.kill()
                    daemon.start()
                    # Nobody asks anything by the link, and yet it comes back.
                    await world.blocked(lambda: until("it is back", lambda: _claims(daemon)))
                    with self.assertRaises(nkv.Denied):
                        await other.put("mine.a", 1)
                    with self.assertRaises(nkv.Conflict):
                        await other.claim("mine")
                    await link.put("mine.a", 1)
                    # It is the claim that it was.
                    self.assertEqual((claim.is_held, claim.rev), (True, rev))
                    await claim.close()
                    await other.put("mine.a", 2)
                    await here.close()
                    self.assertIsNone(await other.get("present.x"))
                    self.assertEqual(await other.keys("$claims.*"), [])
                    present = await link.announce("present.y", 1)
                    self.assertEqual(present.key, "present.y")
                    self.assertEqual((await other.get("present.y")).lifetime, "session")
                events = other.subscribe("present.y")
                async for event in events:
                    if isinstance(event, nkv.Delete):
                        break
                    if isinstance(event, nkv.Sync) and await other.get("present.y") is None:
                        break
                await other.close()

        def _claims(daemon: Daemon) -> Any:
            with nkv.Client.connect(daemon.socket) as client:
                return [found for found in client.clients() if found.get("claims") == ["mine"]]

        self.play(scenario)

    def test_a_claim_is_waited_for_and_lost(self) -> None:
        async def scenario(world: Any) -> None:
            with Daemon() as daemon:
                other = world.link(daemon.socket, **QUICK)
                async with world.link(daemon.socket, **QUICK) as link:
                    first = await other.claim("net.eth0")
                    with self.assertRaises(nkv.Conflict):
                        await link.claim_when_free("net", 0.05)
                    end = await world.apart(lambda: link.claim_when_free("net", PATIENCE))
                    await world.blocked(
                        lambda: until("it waits", lambda: _subscriptions(daemon) == 1)
                    )
                    await first.close()
                    claim = await end()
                    self.assertTrue(claim.is_held)
                    with self.assertRaises(nkv.Denied):
                        await other.put("net.eth0", 1)
                    # A daemon that keeps nothing has let it go.
                    daemon.kill()
                    daemon.start()
                    self.assertTrue(await claim.wait_until_lost(PATIENCE))
                    self.assertIsNone(claim.refusal)
                    await claim.close()
                    self.assertTrue((await link.claim("net")).is_held)
                await other.close()

        def _subscriptions(daemon: Daemon) -> int:
            with nkv.Client.connect(daemon.socket) as client:
                return int(client.stats()["subscriptions"])

        self.play(scenario)

    def test_a_token_over_tcp(self) -> None:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("sesame\n")
            file.flush()
            os.chmod(file.name, 0o600)

            async def scenario(world: Any) -> None:
                with Daemon("--token-file", file.name, address="127.0.0.1:0") as daemon:
                    with self.assertRaises(nkv.Unauthenticated):
                        await world.connect(daemon.address, token="mellon")
                    async with world.link(daemon.address, token="sesame") as link:
                        await link.put("a", 1)
                        async with link.subscribe("a") as events:
                            self.assertEqual(await events.next(PATIENCE), nkv.Put("a", 1, 1, "1"))
                    async with world.link(daemon.address, token="mellon") as link:
                        # Patience would be of no use.
                        with self.assertRaises(nkv.Unauthenticated):
                            await link.put("a", 1)
                        mirror = link.mirror("a")
                        with self.assertRaises(nkv.Unauthenticated):
                            await mirror.wait_until_synced(0.2)

            self.play(scenario)

    def test_a_call_that_is_given_up_harms_nothing(self) -> None:
        async def scenario() -> None:
            with Daemon() as daemon:
                async with nkv.aio.Link(daemon.socket) as link:
                    await link.ping()
                    for _ in range(100):
                        task = asyncio.ensure_future(link.put("a", 1))
                        await asyncio.sleep(0)
                        task.cancel()
                        await link.ping()
                    async with link.subscribe("n", changes_only=True) as events:
                        told: List[Any] = []
                        for number in range(200):
                            await link.put(f"n.{number}", number)
                            try:
                                told.append(await asyncio.wait_for(events.next(), 0.0005))
                            except asyncio.TimeoutError:
                                pass
                        while len([e for e in told if isinstance(e, nkv.Put)]) < 200:
                            told.append(await events.next(PATIENCE))
                        puts = [event.value for event in told if isinstance(event, nkv.Put)]
                        self.assertEqual(puts, list(range(200)))

        asyncio.run(scenario())

    def test_threads_share_a_link(self) -> None:
        with Daemon() as daemon, nkv.Link(daemon.socket) as link:
            wrong: List[Any] = []

            def work(name: str) -> None:
                for number in range(200):
                    link.put(name, [name, number])
                    entry = link.get(name)
                    if entry is None or entry.value != [name, number]:
                        wrong.append(entry)

            threads = [threading.Thread(target=work, args=(f"t.{n}",)) for n in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(wrong, [])
            self.assertEqual(len(link.clients()), 1)

    def test_an_interrupted_call_ends_its_connection_only(self) -> None:
        with Daemon() as daemon, nkv.Link(daemon.socket) as link:
            link.put("a", 1)
            before = signal.signal(signal.SIGALRM, _interrupt)
            events = link.subscribe("a")
            try:
                events.begin()
                for _ in range(2):
                    self.assertIsNotNone(events.next())
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                with self.assertRaises(KeyboardInterrupt):
                    events.next()
            finally:
                signal.signal(signal.SIGALRM, before)
            link.put("a", 2)
            self.assertEqual(events.next(PATIENCE), nkv.Put("a", 2, 2, "2"))

    def test_what_others_put_is_told(self) -> None:
        async def scenario(world: Any) -> None:
            with Daemon() as daemon:
                async with world.link(daemon.socket) as link:
                    plug = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                    plug.connect(daemon.socket)
                    plug.sendall('{"op":"put","key":"größe","value":{ "a": 1.00 }}\n'.encode())
                    self.assertIn(b'"ok":true', plug.recv(1000))
                    plug.close()
                    entry = await link.get("größe")
                    self.assertEqual((entry.raw, entry.value), ('{ "a": 1.00 }', {"a": 1.0}))

        self.play(scenario)

    def test_nothing_is_left_open(self) -> None:
        async def scenario(world: Any) -> None:
            threads = threading.active_count()
            with Daemon() as daemon:
                async with world.link(daemon.socket) as link:
                    link.mirror("*")
                    await link.announce("a", 1)
                    await link.claim("b")
                    async with link.subscribe("*") as events:
                        await events.next(PATIENCE)
                with nkv.Client.connect(daemon.socket) as client:
                    until("all have gone", lambda: len(client.clients()) == 1)
                if world.name == "asyncio":
                    mine = asyncio.all_tasks() - {asyncio.current_task()}
                    self.assertEqual([t for t in mine if t.get_name().startswith("nkv")], [])
            until("threads end", lambda: threading.active_count() <= threads + 1)

        self.play(scenario)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    unittest.main()
