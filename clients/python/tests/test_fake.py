"""Both clients against a peer that follows a script: what they do with what they are told.

What a real daemon does with their lines is tested with the daemon.
"""

from __future__ import annotations

import threading
import unittest
from typing import Any, Callable, List

import nkv
from support import PATIENCE, Case, FakeDaemon, Peer

QUICK = {"patience": 5.0, "pauses": (0.001, 0.01)}
SUBSCRIBED = ',"epoch":"e1","rev":5'


def event(kind: str, rev: int, rest: str = "") -> str:
    return f'{{"sub":2,"event":"{kind}",{rest}"rev":{rev}}}'


def put(key: str, value: str, rev: int) -> str:
    return event("put", rev, f'"key":"{key}","value":{value},')


def delete(key: str, rev: int) -> str:
    return event("delete", rev, f'"key":"{key}",')


class Requests(Case):
    def test_the_greeting_is_kept(self) -> None:
        async def scenario(world: Any) -> None:
            async with FakeDaemon(Peer.hello) as daemon:
                client = await world.connect(daemon.address, name="x" * 200)
                self.assertEqual((client.epoch, client.server), ("e1", "nkv/9.9"))
                self.assertEqual((client.initial_rev, client.limits["message"]), (41, 1 << 20))
                await client.close()
                self.assertTrue(client.is_closed())
                with self.assertRaises(nkv.Disconnected):
                    await client.ping()

        self.play(scenario)

    def test_a_greeting_that_fails_is_told(self) -> None:
        for answer, kind, words in [
            (b'{"ok":false,"error":"limit","message":"too many"}\n', nkv.LimitReached, "too many"),
            (b'{"id":1,"ok":true,"protocol":2}\n', nkv.ProtocolError, "version 2"),
            (b'{"id":1,"ok":true,"protocol":1}\n', nkv.ProtocolError, "without"),
            (b"HTTP/1.1 400 Bad Request\n", nkv.ProtocolError, "no sense"),
            (b"", nkv.ConnectError, "cannot connect"),
            (b'{"id":1,', nkv.ConnectError, "cannot connect"),
        ]:

            async def scenario(world: Any) -> None:
                def script(peer: Peer) -> None:
                    peer.line()
                    peer.write(answer)

                async with FakeDaemon(script) as daemon:
                    with self.assertRaisesRegex(kind, words):
                        await world.connect(daemon.address)

            self.play(scenario)

    def test_a_daemon_that_is_full_is_told(self) -> None:
        async def scenario(world: Any) -> None:
            def script(peer: Peer) -> None:
                peer.say('{"ok":false,"error":"limit","message":"too many"}')

            # Whether the greeting can still be written or not; with asyncio the reason may be lost then.
            kinds = (
                nkv.LimitReached
                if world.name == "blocking"
                else (nkv.LimitReached, nkv.ConnectError)
            )
            for _ in range(20):
                async with FakeDaemon(script) as daemon:
                    with self.assertRaises(kinds):
                        await world.connect(daemon.address)

        self.play(scenario)

    def test_nobody_there(self) -> None:
        async def scenario(world: Any) -> None:
            for address in ["/nowhere/nkv.sock", "127.0.0.1:1"]:
                with self.assertRaisesRegex(nkv.ConnectError, address):
                    await world.connect(address)
                async with world.link(address, patience=0.05) as link:
                    with self.assertRaisesRegex(nkv.ConnectError, address):
                        await link.put("a", 1)

        self.play(scenario)

    def test_an_event_is_waited_for_no_longer_than_asked(self) -> None:
        async def scenario(world: Any) -> None:
            async with world.link("/nowhere/nkv.sock", patience=0.3) as link:
                events = link.subscribe("a")
                self.assertIsNone(await events.next(timeout=0.05))
                self.assertIsNone(await events.next(timeout=0))
                # Without a time the link's patience counts, to begin.
                with self.assertRaisesRegex(nkv.ConnectError, "/nowhere/nkv.sock"):
                    await events.next()

        self.play(scenario)

    def test_a_closed_link_begins_nothing(self) -> None:
        async def scenario(world: Any) -> None:
            async with FakeDaemon() as daemon:
                link = world.link(daemon.address)
                await link.close()
                for begin in [link.subscribe, link.follow, link.mirror]:
                    with self.assertRaisesRegex(nkv.Disconnected, "the link is closed"):
                        begin("a")

        self.play(scenario)

    def test_a_connection_that_is_cut_leaves_the_fate_unknown(self) -> None:
        answer = b'{"id":2,"ok":true,"rev":7}\n'
        for count in range(len(answer) + 1):

            async def scenario(world: Any) -> None:
                def script(peer: Peer) -> None:
                    peer.hello()
                    peer.line()
                    peer.write(answer[:count])

                async with FakeDaemon(script) as daemon:
                    client = await world.connect(daemon.address)
                    if count == len(answer):
                        self.assertEqual(await client.put("a", 1), nkv.Written(7))
                    else:
                        with self.assertRaises(nkv.Unanswered) as told:
                            await client.put("a", 1)
                        self.assertNotIsInstance(told.exception, nkv.Timeout)
                    with self.assertRaises(nkv.Disconnected):
                        for _ in range(3):
                            try:
                                await client.ping()
                            except nkv.Unanswered:
                                pass
                    await client.close()

            self.play(scenario)

    def test_what_was_not_sent_is_not_unanswered(self) -> None:
        async def scenario(world: Any) -> None:
            def script(peer: Peer) -> None:
                peer.hello()

            async with FakeDaemon(script) as daemon:
                client = await world.connect(daemon.address)
                await world.blocked(lambda: daemon._thread.join(PATIENCE))
                with self.assertRaises(nkv.Disconnected):
                    await client.put("a", 1)
                await client.close()

        self.play(scenario)

    def test_a_late_answer_is_dropped(self) -> None:
        async def scenario(world: Any) -> None:
            def script(peer: Peer) -> None:
                peer.hello()
                peer.line()
                request = peer.line()
                self.assertTrue(request.startswith('{"id":3,"op":"get"'), request)
                peer.say('{"id":2,"ok":true,"rev":7}')
                peer.say('{"id":3,"ok":true,"key":"a","value":1,"rev":7}')
                peer.rest()

            async with FakeDaemon(script) as daemon:
                client = await world.connect(daemon.address, reply_timeout=0.05)
                with self.assertRaises(nkv.Timeout):
                    await client.put("a", 1)
                world.within(client)._patience = PATIENCE
                entry = await client.get("a")
                self.assertEqual((entry.value, entry.raw, entry.rev), (1, "1", 7))
                # Nothing is kept of what nobody waits for.
                self.assertEqual(world.within(client)._connection._answers, {})
                await client.close()

        self.play(scenario)

    def test_an_answer_to_another_request_ends_the_connection(self) -> None:
        async def scenario(world: Any) -> None:
            def script(peer: Peer) -> None:
                peer.hello()
                peer.line()
                peer.say('{"id":7,"ok":true}')
                peer.rest()

            async with FakeDaemon(script) as daemon:
                client = await world.connect(daemon.address)
                with self.assertRaises(nkv.Unanswered) as told:
                    await client.ping()
                self.assertIsInstance(told.exception.__cause__, nkv.ProtocolError)
                self.assertTrue(client.is_closed())
                await client.close()

        self.play(scenario)

    def test_a_long_list_comes_in_pages(self) -> None:
        async def scenario(world: Any) -> None:
            def script(peer: Peer) -> None:
                peer.hello()
                for extra in ["", ',"keys_only":true']:
                    value = '"value":1,' if not extra else ""
                    peer.expect(
                        f'{{"op":"get","key":"*"{extra}}}',
                        f',"entries":[{{"key":"a",{value}"rev":1}}],"rev":2,"more":true',
                    )
                    peer.expect(
                        f'{{"op":"get","key":"*","after":"a"{extra}}}',
                        f',"entries":[{{"key":"b",{value}"rev":2}}],"rev":2',
                    )

            async with FakeDaemon(script) as daemon:
                client = await world.connect(daemon.address)
                self.assertEqual([entry.key for entry in await client.list()], ["a", "b"])
                self.assertEqual(await client.keys(), ["a", "b"])
                await client.close()

        self.play(scenario)

    def test_a_pattern_is_no_key(self) -> None:
        async def scenario(world: Any) -> None:
            async with FakeDaemon(Peer.hello) as daemon:
                client = await world.connect(daemon.address)
                for call in [client.get, client.delete, client.claim, client.release]:
                    with self.assertRaises(nkv.BadKey):
                        await call("a.*")
                await client.close()

        self.play(scenario)


class Links(Case):
    """After the first connection is cut, what comes over the second tells what was repeated."""

    def after_a_cut(self, call: Any, *second: Any, epoch: str = "e1") -> None:
        async def scenario(world: Any) -> None:
            def first(peer: Peer) -> None:
                peer.hello()
                peer.line()

            def then(peer: Peer) -> None:
                peer.hello(epoch)
                for step in second:
                    step(peer)

            scripts = [first, then] if second else [first]
            async with FakeDaemon(*scripts) as daemon:
                async with world.link(daemon.address, **QUICK) as link:
                    await call(link)

        self.play(scenario)

    def test_what_reads_is_asked_again(self) -> None:
        async def call(link: Any) -> None:
            self.assertEqual((await link.get("a")).value, 1)

        self.after_a_cut(
            call, lambda peer: peer.expect('{"op":"get","key":"a"}', ',"key":"a","value":1,"rev":1')
        )

    def test_what_writes_is_not(self) -> None:
        writes: List[Callable[[Any], Any]] = [
            lambda link: link.put("a", 1),
            lambda link: link.delete("a"),
            lambda link: link.delete_matching("a.*"),
            lambda link: link.batch(nkv.Batch().put("a", 1)),
        ]
        for write in writes:

            async def call(link: Any) -> None:
                with self.assertRaises(nkv.Unanswered):
                    await write(link)
                await link.ping()

            self.after_a_cut(call, lambda peer: peer.expect('{"op":"ping"}', ""))

    def test_a_put_if_changed_is(self) -> None:
        async def call(link: Any) -> None:
            self.assertEqual(
                await link.put("a", 1, if_changed=True), nkv.Written(3, is_unchanged=True)
            )

        line = '{"op":"put","key":"a","value":1,"if_changed":true}'
        self.after_a_cut(
            call, lambda peer: peer.expect(line, ',"rev":3,"unchanged":true'), epoch="e2"
        )

    def test_a_put_if_rev_is_in_the_same_history(self) -> None:
        line = '{"op":"put","key":"a","value":1,"if_rev":2}'

        async def done(link: Any) -> None:
            self.assertEqual(await link.put("a", 1, if_rev=2), nkv.Written(3))

        self.after_a_cut(done, lambda peer: peer.expect(line, ',"rev":3'))

        async def unknown(link: Any) -> None:
            with self.assertRaises(nkv.Unanswered):
                await link.put("a", 1, if_rev=2)

        def refuse(peer: Peer) -> None:
            peer.line()
            peer.say('{"id":2,"ok":false,"error":"conflict","message":"m","rev":3}')

        # It may have been this very put that has changed the revision.
        self.after_a_cut(unknown, refuse)
        self.after_a_cut(unknown, lambda peer: peer.rest(), epoch="e2")

    def test_a_failure_to_connect_is_no_requests_fate(self) -> None:
        async def scenario(world: Any) -> None:
            def script(peer: Peer) -> None:
                peer.hello()
                peer.line()

            async with FakeDaemon(script) as daemon:
                async with world.link(daemon.address, patience=0.2, pauses=(0.01, 0.01)) as link:
                    # The first attempt's answer was lost, and there is no second one.
                    with self.assertRaises(nkv.Unanswered):
                        await link.put("a", 1)
                    await world.blocked(lambda: daemon._thread.join(PATIENCE))
                    daemon._listener.close()
                    with self.assertRaises(nkv.ConnectError):
                        await link.put("a", 1)

        self.play(scenario)

    def test_an_update_begins_again_where_somebody_was_faster(self) -> None:
        async def scenario(world: Any) -> None:
            def script(peer: Peer) -> None:
                peer.hello()
                peer.expect('{"op":"get","key":"n"}', ',"key":"n","value":1,"rev":4')
                peer.line()
                peer.say('{"id":3,"ok":false,"error":"conflict","message":"m","rev":5}')
                peer.expect(
                    '{"op":"get","key":"n"}',
                    ',"key":"n","value":2,"rev":5,"lifetime":"boot","ttl_ms":1500',
                )
                peer.expect(
                    '{"op":"put","key":"n","value":3,"if_rev":5,"lifetime":"boot","ttl_ms":1500}',
                    ',"rev":6',
                )
                peer.expect('{"op":"get","key":"n"}', ',"key":"n","value":3,"rev":6')

            async with FakeDaemon(script) as daemon:
                async with world.link(daemon.address, **QUICK) as link:
                    self.assertEqual(await link.update("n", lambda n: n + 1), 6)
                    self.assertEqual(await link.update("n", lambda n: None), 6)

        self.play(scenario)

    def test_what_stands_is_asked_for_on_each_connection(self) -> None:
        present = '{"op":"put","key":"p","value":%d,"if_changed":true,"lifetime":"session"}'
        claim = '{"op":"claim","key":"c"}'

        async def scenario(world: Any) -> None:
            is_again = threading.Event()

            def first(peer: Peer) -> None:
                peer.hello()
                peer.expect(present % 1, ',"rev":2')
                peer.expect(present % 2, ',"rev":3')
                peer.expect(claim, ',"rev":1')

            def second(peer: Peer) -> None:
                # Claims come first, for the entry could lie in one.
                peer.hello()
                peer.expect(claim, ',"rev":1')
                peer.expect(present % 2, ',"rev":3')
                is_again.set()
                peer.expect('{"op":"delete","key":"p"}', ',"deleted":1,"rev":4')
                peer.expect('{"op":"ping"}', "")
                peer.expect('{"op":"release","key":"c"}', ',"rev":10')

            async with FakeDaemon(first, second) as daemon:
                async with world.link(daemon.address, **QUICK) as link:
                    present_here = await link.announce("p", 1)
                    await present_here.set(2)
                    claimed = await link.claim("c")
                    # Nobody asks anything, and yet there is another connection.
                    await world.blocked(lambda: is_again.wait(PATIENCE))
                    await link.client()
                    self.assertTrue(claimed.is_held)
                    self.assertFalse(await claimed.wait_until_lost(0))
                    await present_here.close()
                    await link.ping()
                    await claimed.close()
                    self.assertTrue(await claimed.wait_until_lost(PATIENCE))

        self.play(scenario)

    def test_a_refused_announcement_is_made_again(self) -> None:
        present = '{"op":"put","key":"p","value":1,"if_changed":true,"lifetime":"session"}'

        async def scenario(world: Any) -> None:
            is_there = threading.Event()

            def first(peer: Peer) -> None:
                peer.hello()
                peer.expect(present, ',"rev":1')

            def second(peer: Peer) -> None:
                peer.hello()
                # A refusal is no reason to be without a connection.
                peer.line()
                peer.say('{"id":2,"ok":false,"error":"limit","message":"m"}')
                # It is tried again, while nobody asks anything.
                peer.expect(present, ',"rev":2')
                is_there.set()
                peer.rest()

            async with FakeDaemon(first, second) as daemon:
                async with world.link(daemon.address, **QUICK) as link:
                    await link.announce("p", 1)
                    await world.blocked(lambda: is_there.wait(PATIENCE))

        self.play(scenario)

    def test_a_claim_is_lost_where_it_was_free(self) -> None:
        claim, release = '{"op":"claim","key":"c"}', '{"op":"release","key":"c"}'
        no = '{"id":2,"ok":false,"error":"conflict","message":"m"}'

        def check(epoch: str, rev: int) -> None:
            async def scenario(world: Any) -> None:
                def first(peer: Peer) -> None:
                    peer.hello()
                    peer.expect(claim, ',"rev":3')

                def second(peer: Peer) -> None:
                    peer.hello(epoch)
                    if rev:
                        peer.expect(claim, f',"rev":{rev}')
                    else:
                        peer.line()
                        peer.say(no)

                def third(peer: Peer) -> None:
                    # What is lost is not claimed again, but by who asks.
                    peer.hello()
                    peer.expect('{"op":"ping"}', "")
                    peer.expect(claim, ',"rev":12')
                    peer.expect(release, ',"rev":13')
                    if rev:
                        # It may have been granted on this connection.
                        peer.expect(release, ',"rev":14')
                    peer.expect('{"op":"ping"}', "")

                async with FakeDaemon(first, second, third) as daemon:
                    async with world.link(daemon.address, **QUICK) as link:
                        claimed = await link.claim("c")
                        self.assertTrue(await claimed.wait_until_lost(PATIENCE))
                        self.assertFalse(claimed.is_held)
                        self.assertEqual(claimed.rev, 3)
                        self.assertEqual(isinstance(claimed.refusal, nkv.Conflict), not rev)
                        await link.ping()
                        async with await link.claim("c") as other:
                            self.assertTrue(other.is_held)
                            self.assertEqual(other.rev, 12)
                        await claimed.close()
                        await link.ping()

            self.play(scenario)

        check("e1", 9)
        check("e2", 3)
        check("e1", 0)

    def test_what_is_taken_back_meanwhile_is_not_there(self) -> None:
        async def scenario(world: Any) -> None:
            is_asked, is_closed, is_deleted = (threading.Event() for _ in range(3))

            def first(peer: Peer) -> None:
                peer.hello()
                peer.line()
                peer.say('{"id":2,"ok":true,"rev":1}')

            def second(peer: Peer) -> None:
                peer.hello()
                peer.line()
                is_asked.set()
                is_closed.wait(PATIENCE)
                peer.say('{"id":2,"ok":true,"rev":1}')
                peer.expect('{"op":"delete","key":"p"}', ',"deleted":1,"rev":2')
                is_deleted.set()

            async with FakeDaemon(first, second) as daemon:
                async with world.link(daemon.address, **QUICK) as link:
                    here = await link.announce("p", 1)
                    await world.blocked(lambda: is_asked.wait(PATIENCE))
                    await here.close()
                    is_closed.set()
                    await world.blocked(lambda: is_deleted.wait(PATIENCE))

        self.play(scenario)


class Subscriptions(Case):
    def test_it_goes_on_where_it_was(self) -> None:
        async def scenario(world: Any) -> None:
            def first(peer: Peer) -> None:
                peer.hello()
                peer.expect('{"op":"subscribe","key":"net"}', SUBSCRIBED)
                peer.say(put("net.a", "1", 3), put("net.b", "1.00", 2))

            def second(peer: Peer) -> None:
                # Before the first sync all comes again; what was told already is left out.
                peer.hello()
                peer.expect('{"op":"subscribe","key":"net"}', SUBSCRIBED)
                peer.say(put("net.b", "1.00", 2), put("net.c", "null", 6))
                peer.say('{"sub":2,"event":"of tomorrow","rev":6}', event("sync", 6))
                peer.say(put("net.c", "2", 7))
                peer.write(delete("net.c", 8).encode()[:-2])

            def third(peer: Peer) -> None:
                peer.hello()
                peer.expect(
                    '{"op":"subscribe","key":"net","since":7,"epoch":"e1"}', ',"epoch":"e2","rev":2'
                )
                peer.say(event("reset", 2), put("net.d", "4", 1), event("sync", 2))
                peer.rest()

            async with FakeDaemon(first, second, third) as daemon:
                link = world.link(daemon.address, **QUICK)
                told = []
                async with link.subscribe("net") as events:
                    self.assertIsNone(events.position)
                    async for found in events:
                        told.append(found)
                        if found == nkv.Put("net.c", 2, 7, "2"):
                            self.assertEqual(events.position, nkv.Position(7, "e1"))
                        if found == nkv.Sync(2):
                            break
                    self.assertEqual(events.position, nkv.Position(2, "e2"))
                self.assertIsNone(await events.next())
                await link.close()
                self.assertEqual(
                    told,
                    [
                        nkv.Put("net.a", 1, 3, "1"),
                        nkv.Put("net.b", 1.0, 2, "1.00"),
                        nkv.Put("net.c", None, 6, "null"),
                        nkv.Delete("net.a", 6),
                        nkv.Sync(6),
                        nkv.Put("net.c", 2, 7, "2"),
                        nkv.Reset(2),
                        nkv.Put("net.d", 4, 1, "4"),
                        nkv.Sync(2),
                    ],
                )

        self.play(scenario)

    def test_a_reset_may_tell_another_history(self) -> None:
        def check(epoch: str, expected: str) -> None:
            async def scenario(world: Any) -> None:
                def tells(request: str) -> Callable[[Peer], None]:
                    def script(peer: Peer) -> None:
                        peer.hello()
                        peer.expect(f"{request}}}", SUBSCRIBED)
                        peer.say(put("c.a", "1", 1), put("c.b", "2", 2), event("sync", 5))
                        peer.say(event("reset", 1, epoch), put("c.a", "1", 1), event("sync", 3))

                    return script

                def goes_on(request: str) -> Callable[[Peer], None]:
                    place = f',"since":3,"epoch":"{expected}"}}'

                    def script(peer: Peer) -> None:
                        peer.hello()
                        peer.expect(request + place, SUBSCRIBED)
                        peer.rest()

                    return script

                request = '{"op":"subscribe","key":"c","cuts":true'
                scripts = [tells(request), goes_on(request)] * 2
                async with FakeDaemon(*scripts) as daemon:
                    async with world.link(daemon.address, **QUICK) as link:
                        async with link.subscribe("c", cuts=True) as events:
                            async for found in events:
                                if found == nkv.Sync(3):
                                    break
                            self.assertEqual(events.position, nkv.Position(3, expected))
                            self.assertIsNone(await events.next(0.1))
                        follower = link.follow("c")
                        async for cut in follower:
                            if cut.rev == 3:
                                break
                        self.assertEqual(dict(follower.view()), {"c.a": 1})
                        self.assertIsNone(await follower.next(0.1))

            self.play(scenario)

        check("", "e1")
        check('"epoch":"e2",', "e2")

    def test_a_cut_anywhere_loses_nothing(self) -> None:
        lines = [put("a", "1", 1), event("sync", 5), put("a", "2", 6), delete("b", 7)]
        data = "".join(f"{line}\n" for line in lines).encode()
        expected: List[nkv.Event] = [
            nkv.Put("a", 1, 1, "1"),
            nkv.Sync(5),
            nkv.Put("a", 2, 6, "2"),
            nkv.Delete("b", 7),
        ]
        for count in range(0, len(data) + 1, 3):
            whole = data[:count].count(b"\n")

            async def scenario(world: Any) -> None:
                def first(peer: Peer) -> None:
                    peer.hello()
                    peer.expect('{"op":"subscribe","key":"*"}', SUBSCRIBED)
                    peer.write(data[:count])

                def second(peer: Peer) -> None:
                    peer.hello()
                    since = f',"since":{expected[whole - 1].rev},"epoch":"e1"' if whole > 1 else ""
                    peer.expect(f'{{"op":"subscribe","key":"*"{since}}}', SUBSCRIBED)
                    peer.say(*(lines[whole:] if since else lines), event("sync", 7))
                    peer.rest()

                async with FakeDaemon(first, second) as daemon:
                    link = world.link(daemon.address, **QUICK)
                    events = link.subscribe("*")
                    found = [await events.next(PATIENCE) for _ in range(5)]
                    await link.close()
                    self.assertEqual(found, [*expected, nkv.Sync(7)])

            self.play(scenario)

    def test_a_peer_that_has_vanished_is_noticed(self) -> None:
        async def scenario(world: Any) -> None:
            def first(peer: Peer) -> None:
                peer.hello()
                peer.expect('{"op":"subscribe","key":"a"}', SUBSCRIBED)
                peer.say(event("sync", 5))
                peer.expect('{"op":"ping"}', "")
                self.assertIn('"op":"ping"', peer.line())
                peer.rest()

            def second(peer: Peer) -> None:
                peer.hello()
                peer.expect('{"op":"subscribe","key":"a","since":5,"epoch":"e1"}', SUBSCRIBED)
                peer.say(delete("a", 6))
                peer.rest()

            async with FakeDaemon(first, second) as daemon:
                async with world.link(daemon.address, reply_timeout=0.2, **QUICK) as link:
                    events = link.subscribe("a")
                    # As over TCP, but sooner.
                    world.within(events)._feed._silence = 0.02
                    self.assertEqual(await events.next(PATIENCE), nkv.Sync(5))
                    self.assertEqual(await events.next(PATIENCE), nkv.Delete("a", 6))

        self.play(scenario)

    def test_options_are_asked_for(self) -> None:
        async def scenario(world: Any) -> None:
            def script(peer: Peer) -> None:
                peer.hello()
                peer.expect(
                    '{"op":"subscribe","key":"a","exact":true,"initial":false,"cuts":true}',
                    SUBSCRIBED,
                )
                peer.rest()

            def from_there(peer: Peer) -> None:
                peer.hello()
                peer.expect('{"op":"subscribe","key":"a","since":5,"epoch":"e1"}', SUBSCRIBED)
                peer.rest()

            async with FakeDaemon(script, from_there) as daemon:
                link = world.link(daemon.address, **QUICK)
                async with link.subscribe("a", exact=True, changes_only=True, cuts=True) as events:
                    self.assertIsNone(await events.next(0.01))
                    position = events.position
                async with link.subscribe("a", since=position):
                    pass
                await link.close()

        self.play(scenario)

    def test_a_refusal_is_told(self) -> None:
        async def scenario(world: Any) -> None:
            def script(peer: Peer) -> None:
                peer.hello()
                peer.line()
                peer.say('{"id":2,"ok":false,"error":"denied","message":"m"}')

            async with FakeDaemon(script, script) as daemon:
                async with world.link(daemon.address, **QUICK) as link:
                    with self.assertRaises(nkv.Denied):
                        async with link.subscribe("secret"):
                            pass
                    with self.assertRaises(nkv.Denied):
                        await link.follow("secret").next()

        self.play(scenario)

    def test_closing_wakes_whoever_waits(self) -> None:
        for is_answered in [True, False]:

            async def scenario(world: Any) -> None:
                is_there = threading.Event()

                def script(peer: Peer) -> None:
                    if is_answered:
                        peer.hello()
                        peer.expect('{"op":"subscribe","key":"a"}', SUBSCRIBED)
                    is_there.set()
                    peer.rest()

                async with FakeDaemon(script) as daemon:
                    link = world.link(daemon.address, **QUICK)
                    events = link.subscribe("a")
                    end = await world.apart(lambda: events.next())
                    await world.blocked(lambda: is_there.wait(PATIENCE))
                    await events.close()
                    self.assertIsNone(await end())
                    await link.close()

            self.play(scenario)


class Mirrors(Case):
    def test_handlers_are_told_true_differences(self) -> None:
        async def scenario(world: Any) -> None:
            def first(peer: Peer) -> None:
                peer.hello()
                peer.expect('{"op":"subscribe","key":"c","cuts":true}', SUBSCRIBED)
                peer.say(put("c.a", "1", 1), put("c.b", "2", 2), put("c.x", '"x"', 3))
                peer.say(event("sync", 5), put("c.a", "5", 6))

            def second(peer: Peer) -> None:
                # What had no sync behind it was forgotten.
                peer.hello("e2")
                peer.expect(
                    '{"op":"subscribe","key":"c","cuts":true,"since":5,"epoch":"e1"}',
                    ',"epoch":"e2","rev":9',
                )
                peer.say(event("reset", 9), put("c.b", "2", 7), put("c.d", "4", 8))
                peer.say(put("c.a", "6", 9), event("sync", 9), delete("c.d", 10), event("sync", 10))
                peer.rest()

            told = []
            async with FakeDaemon(first, second) as daemon:
                link = world.link(daemon.address, **QUICK)
                mirror = link.mirror(
                    "c",
                    parse=lambda value: 10 * _number(value),
                    on_created=lambda key, value: told.append(f"+{key}={value}"),
                    on_modified=lambda key, value, old: told.append(f"{key}:{old}>{value}"),
                    on_deleted=lambda key, old: told.append(f"-{key}:{old}"),
                    on_invalid=lambda key, error: told.append(f"!{key} {error}"),
                    on_synced=lambda: told.append("synced"),
                    on_cut=lambda cut: told.append(f"cut {cut.rev}"),
                )
                view = await mirror.wait_until(lambda view: view.rev == 10, PATIENCE)
                self.assertTrue(mirror.is_connected)
                self.assertEqual(dict(view), {"c.a": 60, "c.b": 20})
                self.assertEqual((mirror.get("c.a"), mirror["c.b"], len(mirror)), (60, 20, 2))
                self.assertTrue("c.b" in mirror and "c.x" not in mirror)
                await mirror.close()
                self.assertEqual(mirror.get("c.a"), 60)
                await link.close()
            self.assertEqual(
                told,
                "+c.a=10|+c.b=20|!c.x no number|cut 5|synced|"
                "+c.d=40|c.a:10>60|-c.x:None|cut 9|synced|-c.d:40|cut 10".split("|"),
            )

        self.play(scenario)

    def test_a_handler_that_fails_hinders_nothing(self) -> None:
        async def scenario(world: Any) -> None:
            def script(peer: Peer) -> None:
                peer.hello()
                peer.expect('{"op":"subscribe","key":"c","cuts":true}', SUBSCRIBED)
                peer.say(put("c.a", "1", 1), event("sync", 5), put("c.a", "2", 6), event("sync", 6))
                peer.rest()

            told: List[Any] = []

            def fail(*arguments: Any) -> None:
                raise RuntimeError("of a handler")

            async with FakeDaemon(script) as daemon, world.link(daemon.address, **QUICK) as link:
                with self.assertLogs("nkv", "ERROR"):
                    async with link.mirror("c", on_created=fail, on_cut=told.append) as mirror:
                        await mirror.wait_until(lambda view: view.rev == 6, PATIENCE)
            self.assertEqual([cut.rev for cut in told], [5, 6])

        self.play(scenario)

    def test_waiting_has_an_end(self) -> None:
        async def scenario(world: Any) -> None:
            def script(peer: Peer) -> None:
                peer.hello()
                peer.expect('{"op":"subscribe","key":"c","cuts":true}', SUBSCRIBED)
                peer.say(event("sync", 5))
                peer.rest()

            async with FakeDaemon(script) as daemon:
                async with world.link(daemon.address, **QUICK) as link:
                    mirror = link.mirror("c")
                    await mirror.wait_until_synced(PATIENCE)
                    with self.assertRaises(nkv.NotInTime):
                        await mirror.wait_until(lambda view: False, 0.01)
            async with world.link("/nowhere/nkv.sock") as link:
                mirror = link.mirror("c")
                with self.assertRaises(nkv.ConnectError):
                    await mirror.wait_until_synced(0.2)
                self.assertFalse(mirror.is_connected)

        self.play(scenario)

    def test_a_follower_moves_when_asked(self) -> None:
        async def scenario(world: Any) -> None:
            def script(peer: Peer) -> None:
                peer.hello()
                peer.expect('{"op":"subscribe","key":"c","exact":true,"cuts":true}', SUBSCRIBED)
                peer.say(put("c", "1", 1), event("sync", 5), put("c", "2", 6), event("sync", 6))
                peer.rest()

            async with FakeDaemon(script) as daemon:
                async with world.link(daemon.address, **QUICK) as link:
                    follower = link.follow("c", exact=True)
                    cut = await follower.next(PATIENCE)
                    self.assertEqual(cut.changes, [nkv.Created("c", 1, 1)])
                    self.assertTrue(cut.is_reset and cut.is_caught_up)
                    self.assertEqual(follower.get("c"), 1)
                    async for cut in follower:
                        break
                    self.assertEqual(cut.changes, [nkv.Modified("c", 2, 1, 6)])
                    self.assertFalse(cut.is_reset or cut.is_caught_up)
                    self.assertIsNone(await follower.next(0.01))

        self.play(scenario)


def _number(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError("no number")
    return value


if __name__ == "__main__":
    unittest.main()
