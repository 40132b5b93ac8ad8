"""What needs no connection: keys, addresses, values, lines, attempts, and a mirror's copy."""

from __future__ import annotations

import doctest
import os
import unittest
from decimal import Decimal
from typing import Any, Dict, List, Tuple
from unittest import mock

import nkv
import nkv.aio
from nkv import _address, _client, _values, _wire
from nkv._claimed import Grant, claims_about, is_in_the_way
from nkv._events import Position
from nkv._exchange import Exchange
from nkv._replica import Gatherer, Replica
from nkv._retry import Attempts, Backoff
from nkv._wire import Retry


class Keys(unittest.TestCase):
    def test_segments_escape_and_return(self) -> None:
        for text, escaped in [
            ("plain", "plain"),
            ("a.b", "a%2Eb"),
            ("*", "%2A"),
            ("100%", "100%25"),
            ("$x$", "%24x$"),
            ("a b\u2003c", "a%20b%E2%80%83c"),
            ("\n\x7f\x85", "%0A%7F%C2%85"),
            ("é", "é"),
        ]:
            self.assertEqual(nkv.escape(text), escaped)
            self.assertEqual(nkv.unescape(escaped), text)
            self.assertEqual(nkv.segments(nkv.key("x", text)), ["x", text])
        for text, plain in [("50%", "50%"), ("%FF", "%FF"), ("%zz%2e", "%zz.")]:
            self.assertEqual(nkv.unescape(text), plain)
        for none in [[""], [], ["a", ""]]:
            with self.assertRaises(ValueError):
                nkv.key(*none)

    def test_patterns_match(self) -> None:
        for pattern, yes, no in [
            ("net.*", "net net.eth0 net.eth0.mtu", "network a.net"),
            ("net.*.mtu", "net.eth0.mtu net.lo.mtu", "net.mtu net.eth0.vlan.mtu"),
            ("net.*.*", "net.eth0 net.eth0.mtu", "net"),
            ("*.mtu", "eth0.mtu", "mtu net.eth0.mtu $x.mtu"),
            ("*", "a a.b", "$a $a.b"),
            ("a", "a", "a.b b"),
            ("$a.*", "$a $a.b", "a"),
        ]:
            for key in yes.split():
                self.assertTrue(nkv.matches(pattern, key), (pattern, key))
            for key in no.split():
                self.assertFalse(nkv.matches(pattern, key), (pattern, key))


class Addresses(unittest.TestCase):
    def test_addresses_are_told_apart(self) -> None:
        for text, expected in [
            ("/run/nkv.sock", _address.Unix("/run/nkv.sock")),
            ("./nkv.sock", _address.Unix("./nkv.sock")),
            ("a:1/b", _address.Unix("a:1/b")),
            ("unix:nkv.sock", _address.Unix("nkv.sock")),
            ("unix:tcp:a/b", _address.Unix("tcp:a/b")),
            ("4222", _address.Tcp("localhost", 4222)),
            ("tcp:4222", _address.Tcp("localhost", 4222)),
            ("edge-7.example.org:4222", _address.Tcp("edge-7.example.org", 4222)),
            ("[::1]:4222", _address.Tcp("::1", 4222)),
            ("tcp:[fe80::1%2]:4222", _address.Tcp("fe80::1%2", 4222)),
        ]:
            self.assertEqual(_address.parse(text), expected)
            self.assertEqual(_address.parse(str(expected)), expected)
        for text in (
            "|unix:|tcp:|get|localhost:|localhost:+1|65536|:4222|a b:4222|::1|[::1:4222"
            "|tcp:a/b:1|a:٣"
        ).split("|"):
            with self.assertRaises(nkv.AddressError, msg=text):
                _address.parse(text)

    def test_the_environment_is_asked_first(self) -> None:
        with mock.patch.dict(os.environ, {"NKV_ADDRESS": "edge:1"}):
            self.assertEqual(nkv.Link().address, "edge:1")
        with mock.patch.dict(os.environ, {"NKV_ADDRESS": ""}):
            self.assertIn("nkv.sock", nkv.Link().address)
        for uid, runtime, expected in [
            (0, "/run/user/0", ["/run/nkv.sock"]),
            (7, None, ["/tmp/nkv-7/nkv.sock"]),
            (7, "relative", ["/tmp/nkv-7/nkv.sock"]),
            (7, "/run/user/7", ["/run/user/7/nkv.sock", "/tmp/nkv-7/nkv.sock"]),
        ]:
            self.assertEqual(_address._own_places(uid, runtime), expected)


class Values(unittest.TestCase):
    def test_values_become_text(self) -> None:
        values: List[Tuple[Any, str]] = [
            (None, '"value":null'),
            ({"b": [1, 2.5, "é"], "a": True}, '"value":{"b":[1,2.5,"é"],"a":true}'),
            ("\ud800", '"value":"\\ud800"'),
            (10**30, f'"value":1{"0" * 30}'),
            (b"\x00\xff", '"base64":"AP8="'),
            (bytearray(b"a"), '"base64":"YQ=="'),
            (nkv.Json(" 1.00\n"), '"value":1.00'),
            (nkv.Json('{ "a":\r\n1 }'), '"value":{ "a":  1 }'),
        ]
        for value, text in values:
            self.assertEqual(_values.payload(value), text)
        for wrong in [
            {1, 2},
            float("nan"),
            nkv.Json(""),
            nkv.Json("1 2"),
            nkv.Json("NaN"),
            nkv.Json("{"),
            nkv.Json('"\ud800"'),
        ]:
            with self.assertRaises(nkv.BadValue):
                _values.payload(wrong)

    def test_lines_keep_the_text_of_values(self) -> None:
        for raw, value in [
            ("1.00", 1.0),
            ('{ "value" : [ "}" , 1 ] }', {"value": ["}", 1]}),
            ("12345678901234567890123", 12345678901234567890123),
            ('"\\ud800"', "\ud800"),
            ("null", None),
            ("9" * 5000, Decimal("9" * 5000)),
        ]:
            for line in [
                f'{{"ok":true,"key":"a","value":{raw},"rev":3,"new":{{"value":7}}}}',
                f' {{ "rev" : 3 , "value" : {raw} , "ok" : true, "key":"a" }} \r',
            ]:
                entry = _wire.entry(_wire.parse(line.encode()))
                self.assertEqual((entry.raw, entry.value, entry.rev), (raw, value, 3))
            line = f'{{"entries":[{{"key":"a","value":{raw},"rev":1}}, {{"key":"b","base64":"/w==","rev":2,"ttl_ms":1500}}]}}'
            first, second = map(_wire.entry, _wire.parse(line.encode())["entries"])
            self.assertEqual((first.raw, first.value), (raw, value))
            self.assertEqual((second.raw, second.value, second.ttl), (b"\xff", b"\xff", 1.5))
            for begin, end, lifetime, ttl in [
                ("", "", "durable", None),
                ("", ',"lifetime":"boot"', "boot", None),
                ("", ',"lifetime":"boot","ttl_ms":500', "boot", 0.5),
                (" ", ' , "new":[] , "lifetime":"boot"', "boot", None),
            ]:
                line = f'{{"entries":[{{"key":"a.b","value":{begin}{raw},"rev":7{end}}}]}}'
                (entry,) = map(_wire.entry, _wire.parse(line.encode())["entries"])
                self.assertEqual(entry, nkv.Entry("a.b", value, 7, raw, lifetime, ttl))

    def test_what_is_no_line_is_told(self) -> None:
        for line in (
            b"", b"[]", b"1", b"{", b'{"value"', b'{"value":', b'{"value":1', b'{"value":1,}',
            b'{"value":1}x', b'{"value":NaN}', b'{"base64":"A"}', b'{"entries":{"value":1}}',
            b'{"entries":["value"]}', b'["value"]',
            b'{"entries":[{"key":"a","value":1,"rev":1]}', b'{"entries":[{"key":"a","value":1,"rev":1}',
            b'{"entries":[{"key":"a","value":NaN,"rev":1}]}', b'{"entries":[{"key":"a","value":1,"rev":01}]}',
            b'\xff', b'{"value":' + b"[" * 100000,
        ):  # fmt: skip
            with self.assertRaises(nkv.ProtocolError, msg=line[:30]):
                _wire.parse(line)

    def test_a_time_to_live_is_never_rounded_to_nothing(self) -> None:
        for seconds, shown in [(1.1, 1100), (0.0001, 1), (30, 30000), (4.35, 4350), (0, 0)]:
            self.assertIn(f'"ttl_ms":{shown}', _wire.put("a", 1, ttl=seconds).body)


class Lines(unittest.TestCase):
    def both_ways(self, data: bytes, count: int = 4) -> List[Any]:
        told = []
        for size in (1, 7, len(data)):
            exchange = Exchange()
            for _ in range(count):
                exchange.request('"op":"ping"')
            pieces = [data[at : at + size] for at in range(0, len(data), size)]
            told.append([found for piece in pieces for found in exchange.receive(piece)])
        self.assertEqual(told[0], told[1])
        self.assertEqual(told[0], told[2])
        return told[0]

    def test_answers_come_to_whoever_asked(self) -> None:
        data = (
            '{"id":1,"ok":true,"rev":7}\r\n\n  \n{"id":2,"ok":true}\n'
            '{"ok":false,"error":"too_large","message":"größer"}\n'
            '{"sub":4,"event":"sync","rev":7}\n{"of":"another day"}\n{"id":4,"ok":true}'
        )
        told = self.both_ways(data.encode())
        self.assertEqual([number for number, _ in told], [1, 2, 3, None])
        self.assertEqual(str(nkv.errors.refusal(told[2][1])), "too_large: größer")

    def test_what_makes_no_sense_ends_it(self) -> None:
        for line in [b'{"id":2,"ok":true}\n', b"HTTP/1.1 400\n", b"\xff\n"]:
            with self.assertRaises(nkv.ProtocolError):
                self.both_ways(line)
        with self.assertRaisesRegex(nkv.LimitReached, "limit: too many"):
            self.both_ways(b'{"ok":false,"error":"limit","message":"too many"}\n', 0)
        with self.assertRaisesRegex(nkv.ProtocolError, "nothing asked for"):
            self.both_ways(b'{"id":1,"ok":true}\n', 0)


class Retries(unittest.TestCase):
    """Each word is an attempt, in the history after the `@`; `late` ends the patience."""

    def check(self, retry: Retry, script: str, expected: str) -> None:
        outcome = "again"
        attempts, in_time = Attempts(retry), True
        for word in script.split():
            self.assertEqual(outcome, "again", script)
            if word == "late":
                in_time = False
                continue
            what, _, epoch = word.partition("@")
            failure = {
                "lost": nkv.Unanswered("x"),
                "unsent": nkv.Disconnected("x"),
                "timeout": nkv.Timeout("x"),
                "conflict": nkv.Conflict("x"),
                "limit": nkv.LimitReached("x"),
            }.get(what)
            try:
                attempts.begin(epoch)
                if failure is None:
                    outcome = "done"
                else:
                    attempts.failed(failure, epoch, in_time)
            except nkv.Error as error:
                outcome = {
                    nkv.Unanswered: "lost", nkv.Disconnected: "unsent", nkv.Timeout: "timeout",
                    nkv.Conflict: "conflict", nkv.LimitReached: "limit",
                }[type(error)]  # fmt: skip
        self.assertEqual(outcome, expected, script)

    def test_a_request_is_repeated_where_that_does_no_harm(self) -> None:
        for retry, script, expected in [
            (Retry.NEVER, "unsent unsent done", "done"),
            (Retry.NEVER, "unsent late unsent", "unsent"),
            (Retry.NEVER, "lost", "lost"),
            (Retry.NEVER, "timeout", "timeout"),
            (Retry.NEVER, "limit", "limit"),
            (Retry.HARMLESS, "lost unsent lost@f done@g", "done"),
            (Retry.HARMLESS, "lost late unsent", "lost"),
            (Retry.HARMLESS, "lost timeout", "lost"),
            (Retry.HARMLESS, "lost limit", "lost"),
            (Retry.SAME_HISTORY, "conflict", "conflict"),
            (Retry.SAME_HISTORY, "lost done", "done"),
            (Retry.SAME_HISTORY, "lost conflict", "lost"),
            (Retry.SAME_HISTORY, "unsent conflict", "conflict"),
            (Retry.SAME_HISTORY, "lost lost unsent conflict", "lost"),
            (Retry.SAME_HISTORY, "lost done@f", "lost"),
            (Retry.SAME_HISTORY, "unsent done@f", "done"),
            (Retry.READ, "lost lost@f unsent@g done", "done"),
            (Retry.READ, "lost late unsent", "unsent"),
            (Retry.READ, "timeout", "timeout"),
        ]:
            self.check(retry, script, expected)

    def test_each_request_says_how_it_may_be_repeated(self) -> None:
        for request, retry in [
            (_wire.get("a"), Retry.READ),
            (_wire.put("a", 1), Retry.NEVER),
            (_wire.put("a", 1, if_changed=True), Retry.HARMLESS),
            (_wire.put("a", 1, if_rev=1), Retry.SAME_HISTORY),
            (_wire.put("a", 1, if_rev=1, if_changed=True), Retry.SAME_HISTORY),
            (_wire.delete("a"), Retry.NEVER),
            (_wire.batch([]), Retry.NEVER),
        ]:
            self.assertIs(request.retry, retry, request.body)

    def test_what_is_no_text_is_no_key(self) -> None:
        # Names of files that are not UTF-8 come like this from the system.
        name = "a" + os.fsdecode(b"\xff")
        for make in (
            lambda: _wire.get(name),
            lambda: _wire.put(name, 1),
            lambda: _wire.delete(name),
            lambda: _wire.page(name + ".*", None, False),
            lambda: _wire.page("a.*", name, True),
            lambda: _wire.check(name, 1),
            lambda: _wire.claim(name),
            lambda: _wire.subscribe(name, False, True, False, None),
            lambda: nkv.Batch().put(nkv.key("a", name), 1),
        ):
            with self.assertRaisesRegex(nkv.BadKey, r"a\\udcff"):
                make()
        no_text: Any = b"a"
        with self.assertRaises(nkv.BadKey):
            _wire.put(no_text, 1)

    def test_pauses_double_and_differ(self) -> None:
        backoff = Backoff((0.02, 0.1))
        for _ in range(2):
            for whole in [0.02, 0.04, 0.08, 0.1, 0.1]:
                self.assertTrue(whole / 2 <= backoff.pause() <= whole)
            self.assertEqual(backoff.pause_after(0.1), 0)
        self.assertGreater(backoff.pause_after(0.09), 0)
        self.assertNotEqual(Backoff((1, 1)).pause(), Backoff((1, 1)).pause())


class Claims(unittest.TestCase):
    def test_what_becomes_of_a_claim_is_known(self) -> None:
        # Each word is what the daemon says in the history after the @: a revision, or `no`.
        for script, expected in [
            ("", (0, False, False)),
            ("no@e", (0, True, True)),
            ("3@e 3@e", (3, False, False)),
            ("3@e no@e", (3, True, True)),
            ("3@e 9@e", (3, True, False)),
            # A history in which it has the same revision by chance.
            ("3@e 3@f", (3, True, False)),
            # What is lost stays lost.
            ("3@e no@e 3@e", (3, True, True)),
            ("3@e 9@e 3@e", (3, True, False)),
        ]:
            grant = Grant()
            for word in script.split():
                said, _, epoch = word.partition("@")
                grant.settle(nkv.Conflict("m") if said == "no" else int(said), epoch)
            found = (grant.rev, grant.is_lost, grant.refusal is not None)
            self.assertEqual(found, expected, script)

    def test_claims_above_and_below_are_in_the_way(self) -> None:
        self.assertEqual(claims_about("net.eth0"), "$claims.net")
        self.assertEqual(claims_about("net"), "$claims.net")
        for entry, expected in [
            ("$claims.net.eth0", True),
            ("$claims.net", True),
            ("$claims.net.eth0.mtu", True),
            ("$claims.net.eth1", False),
            ("$claims.net.eth00", False),
            ("$claims.ne", False),
            ("net.eth0", False),
        ]:
            self.assertIs(is_in_the_way(entry, "net.eth0"), expected, entry)


class Copies(unittest.TestCase):
    """`a=1@5` is a put, `-a@5` a delete, `s5` a sync, `r5` a reset, `lost` a lost connection."""

    def play(self, script: str) -> Any:
        replica: Replica[int] = Replica(_whole_number)
        gatherer, cuts = Gatherer(None), []
        for word in script.split():
            if word == "lost":
                gatherer = Gatherer(replica.position)
                continue
            told = gatherer.push(_event(word), "e")
            if told is not None:
                cut = replica.apply(told)
                cuts.append(" ".join(["anew"] * cut.is_reset + [_shown(c) for c in cut.changes]))
        return replica, cuts

    def test_only_true_differences_are_told(self) -> None:
        for script, expected in [
            ("s0", ["anew"]),
            ("a=1@1 b=2@2 s2", ["anew +a=1 +b=2"]),
            ("s0 a=1@1 s1 a=2@2 s2 -a@3 s3", ["anew", "+a=1", "a:1>2", "-a:2"]),
            ("s0 a=1@1 a=2@2 s2", ["anew", "+a=2"]),
            ("s0 a=1@1 -a@2 s2", ["anew", ""]),
            ("a=1@1 s1 a=1@2 s2", ["anew +a=1", ""]),
            ("a=1@1 s1 -a@2 a=1@3 s3", ["anew +a=1", ""]),
            ("s0 -a@1 s1", ["anew", ""]),
            ("s0 b=1@1 a=1@2 b=2@3 s3", ["anew", "+a=1 +b=2"]),
            ("a=1@1 b=2@2 c=3@3 s3 r1 b=2@1 c=4@2 s2", ["anew +a=1 +b=2 +c=3", "anew c:3>4 -a:1"]),
            ("a=1@1 s1 b=2@2 r3 a=1@1 s3", ["anew +a=1", "anew"]),
            # A lost connection takes along what was not whole.
            ("a=1@1 s1 a=2@2 lost b=3@3 s3", ["anew +a=1", "+b=3"]),
            ("a=1@1 lost b=2@2 s2", ["anew +b=2"]),
            ("a=1@1 s1 r9 b=2@2 lost r9 b=2@2 s9", ["anew +a=1", "anew +b=2 -a:1"]),
            # A value of another type hinders nothing.
            (
                'a=1@1 b="x"@2 s2 a="y"@3 s3 a=5@4 b=6@5 s5',
                ["anew +a=1 !b:?", "!a:1", "a:?>5 b:?>6"],
            ),
        ]:
            self.assertEqual(self.play(script)[1], expected, script)

    def test_a_view_is_one_state(self) -> None:
        replica, _ = self.play('b=1@1 a=2@2 c="x"@3 s3')
        view = replica.view()
        self.assertIs(view, replica.view())
        replica.apply(_told("-b@4 s4"))
        self.assertEqual((dict(view), list(view), view.rev), ({"a": 2, "b": 1}, ["a", "b"], 3))
        self.assertEqual((len(view), "c" in view, len(view.entries)), (2, False, 3))
        self.assertEqual((view.entries["c"].raw, view.entries["c"].rev), ('"x"', 3))
        self.assertEqual((dict(replica.view()), replica.view().rev), ({"a": 2}, 4))


def _whole_number(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError("no number")
    return value


def _told(script: str) -> Any:
    gatherer = Gatherer(Position(0, "e"))
    return [gatherer.push(_event(word), "e") for word in script.split()][-1]


def _event(word: str) -> nkv.Event:
    what, at, rev = word.partition("@")
    if not at:
        return nkv.Sync(int(word[1:])) if word[0] == "s" else nkv.Reset(int(word[1:]))
    key, equals, raw = what.partition("=")
    if not equals:
        return nkv.Delete(key[1:], int(rev))
    return nkv.Put(key, _values.decode(raw, 0)[0], int(rev), raw)


def _shown(change: Any) -> str:
    old = "?" if getattr(change, "old", None) is None else change.old
    if isinstance(change, nkv.Created):
        return f"+{change.key}={change.value}"
    if isinstance(change, nkv.Modified):
        return f"{change.key}:{old}>{change.value}"
    return f"{'-' if isinstance(change, nkv.Deleted) else '!'}{change.key}:{old}"


class Texts(unittest.TestCase):
    def test_examples_of_docstrings(self) -> None:
        for module in (nkv.keys, _client):
            found = doctest.testmod(module)
            self.assertEqual(found.failed, 0)
            self.assertGreater(found.attempted, 0)

    def test_both_clients_have_the_same(self) -> None:
        for name in nkv.aio.__all__:
            ours, theirs = (
                {member for member in vars(kind) if not member.startswith("_")}
                for kind in (_whole(getattr(nkv, name)), _whole(getattr(nkv.aio, name)))
            )
            self.assertEqual(ours, theirs, name)

    def test_every_code_has_its_class(self) -> None:
        for code in (
            "bad_request bad_key not_found conflict too_large limit denied unauthenticated "
            "read_only internal"
        ).split():
            error = nkv.errors.refusal({"error": code, "message": "why", "rev": 4, "at": 2})
            self.assertEqual((error.code, type(error).code), (code, code))
            self.assertEqual((str(error), error.rev, error.at), (f"{code}: why", 4, 2))
        other = nkv.errors.refusal({"error": "of_tomorrow", "message": "why"})
        self.assertEqual((type(other), other.code), (nkv.ServerError, "of_tomorrow"))


def _whole(kind: type) -> Any:
    members: Dict[str, Any] = {}
    for part in reversed(kind.__mro__[:-1]):
        members.update(vars(part))
    return type("Whole", (), members)


if __name__ == "__main__":
    unittest.main()
