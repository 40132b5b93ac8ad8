"""The conformance vectors, with the daemon's part played here.

For each line that a story's client sends, the typed call is made that should lead to it, and what was written
is compared; then the story's answers are said, and what the call gives is held against them. A subscription
has a connection of its own here, which the stories don't mind: it is answered where it was asked.
"""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import json
import os
import re
import shutil
import socket
import tempfile
import threading
import unittest
from typing import Any, Callable, Dict, List, Optional, Tuple

import nkv
import nkv.aio
from nkv import _wire
from nkv._threads import run
from support import GREETING, PATIENCE, ROOT, Peer, members

STORIES = sorted((ROOT / "tests" / "vectors").glob("*.jsonl"))
KNOWN_NEEDS = {"unix", "fresh"}
PLACEHOLDER = re.compile(r'"\$(\w+)"')


class Threads:
    """Makes the calls of the blocking client, each on a thread."""

    def __init__(self) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(8)

    def link(self, address: str) -> Any:
        return nkv.Link(address)

    def client(self) -> Any:
        return nkv.Client

    def within(self, client: Any) -> Any:
        return lambda request: run(client._within._ask(request))

    def start(self, call: Callable[..., Any], *args: Any, **named: Any) -> Any:
        return self._pool.submit(call, *args, **named)

    def end(self) -> None:
        self._pool.shutdown()


class Loop:
    """Makes the calls of the asynchronous client, in a loop on a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def link(self, address: str) -> Any:
        return nkv.aio.Link(address)

    def client(self) -> Any:
        return nkv.aio.Client

    def within(self, client: Any) -> Any:
        return lambda request: client._ask(request)

    def start(self, call: Callable[..., Any], *args: Any, **named: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(call(*args, **named), self._loop)

    def end(self) -> None:
        async def rest() -> None:
            await asyncio.sleep(0)

        self.start(rest).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Story:
    """One story on its way."""

    def __init__(self, world: Any, steps: List[Any]) -> None:
        self._world = world
        self._steps = steps
        self._directory = tempfile.mkdtemp(prefix="nkv-python-")
        self._address = os.path.join(self._directory, "nkv.sock")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.settimeout(PATIENCE)
        self._listener.bind(self._address)
        self._listener.listen(16)
        self._bound: Dict[str, str] = {}
        self._link = world.link(self._address)
        # What each of the story's clients has: a connection, and subscriptions by their ids.
        self._clients: Dict[str, Tuple[Any, Peer]] = {}
        self._feeds: Dict[Tuple[str, str], Tuple[Any, Peer]] = {}
        # What was asked and not answered, by the id: whose peer, the call, and what it is held against.
        self._asked: Dict[str, Tuple[Peer, Any, Callable[..., None]]] = {}
        self._peers: List[Peer] = []

    def play(self) -> int:
        """Plays it, and tells how many lines there were."""
        lines = 0
        for step in self._steps:
            lines += self._step(step)
        assert not self._asked, "a request was not answered"
        return lines

    def end(self) -> None:
        for name in {name for name, _ in self._feeds} | set(self._clients):
            self._close(name)
        self._world.start(self._link.close).result(PATIENCE)
        self._listener.close()
        for peer in self._peers:
            peer.close()
        shutil.rmtree(self._directory)

    def _step(self, step: Any) -> int:
        if step.get("raw"):
            return 0
        if "any_order" in step:
            return sum(self._step(inner) for inner in step["any_order"])
        if "in" in step:
            self._sent(step["in"], step["line"])
        elif "out" in step:
            self._told(step["out"], step["line"])
        elif "close" in step:
            self._close(step["close"])
        else:
            assert set(step) <= {"open", "about", "needs", "limits"}, step
            return 0
        return 1

    def _accept(self, greets: bool = True) -> Peer:
        plug, _ = self._listener.accept()
        peer = Peer(plug)
        self._peers.append(peer)
        if greets:
            peer.hello(self._bound.get("epoch", '"epoch"').strip('"'))
        return peer

    def _client(self, name: str) -> Tuple[Any, Peer]:
        if name not in self._clients:
            call = self._world.start(self._world.client().connect, self._address)
            peer = self._accept()
            self._clients[name] = call.result(PATIENCE), peer
        return self._clients[name]

    def _sent(self, name: str, line: str) -> None:
        """Makes the call that should lead to this line."""
        fields = dict(members(self._filled(line)))
        op = json.loads(fields["op"])
        placeholder = re.match(r'{"id":"\$(\w+)"', line)
        assert placeholder, line
        identity = placeholder[1]
        peer: Optional[Peer]
        if op == "hello" and "client" in fields:
            options = {"name": json.loads(fields["client"])}
            if "token" in fields:
                options["token"] = json.loads(fields["token"])
            call = self._world.start(self._world.client().connect, self._address, **options)
            peer = self._accept(greets=False)
            check = lambda found, told: self._greeted(name, peer, found, told)
        elif op == "subscribe":
            position = None
            if "since" in fields:
                position = nkv.Position(int(fields["since"]), json.loads(fields["epoch"]))
            subscription = self._link.subscribe(
                json.loads(fields["key"]),
                exact="exact" in fields,
                changes_only=fields.get("initial") == "false",
                cuts="cuts" in fields,
                since=position,
            )
            call = self._world.start(subscription.begin)
            peer = self._accept()
            self._feeds[name, identity] = subscription, peer
            check = lambda found, told: None
        elif op == "unsubscribe":
            subscribed = PLACEHOLDER.findall(line)[1]
            subscription, peer = self._feeds.pop((name, subscribed))
            self._world.start(subscription.close).result(PATIENCE)
            assert peer.rest() == ""
            self._asked[identity] = peer, None, lambda found, told: None
            return
        else:
            client, peer = self._client(name)
            call, check = self._called(client, op, fields)
        written = peer.line()
        self._bound[identity] = str(json.loads(written)["id"])
        _compare(self._filled(line), written)
        self._asked[identity] = peer, call, check

    def _called(self, client: Any, op: str, fields: Dict[str, str]) -> Tuple[Any, Any]:
        key = json.loads(fields.get("key", '""'))
        start = self._world.start
        if op == "put":
            return start(client.put, key, _value(fields), **_options(fields)), _put_done
        if op == "get" and {"limit", "after"} & set(fields):
            # The typed call asks for page after page, and not for these.
            body = ",".join(f'"{name}":{value}' for name, value in fields.items() if name != "id")
            return start(self._world.within(client), _wire.Request(body, lambda told: told)), _ok
        if op == "hello":
            # The typed one says a name.
            bare = _wire.Request('"op":"hello"', lambda told: told)
            return start(self._world.within(client), bare), _ok
        if op == "get" and "keys_only" in fields:
            return start(client.keys, key), _keys_done
        if op == "get" and "*" in key:
            return start(client.list, key), _list_done
        if op == "get":
            return start(client.get, key), _get_done
        if op == "delete" and "*" in key:
            return start(client.delete_matching, key), _same("deleted")
        if op == "delete":
            call = start(client.delete, key, **_options(fields))
            return call, lambda found, told: _equal(int(found), told["deleted"])
        if op == "batch":
            return start(client.batch, _batch(fields["ops"])), _same("rev")
        if op == "claim":
            return start(client.claim, key), _same("rev")
        if op == "clients":
            return start(client.clients), _same("clients")
        if op == "stats":
            return start(client.stats), lambda found, told: _equal(found["keys"], told["keys"])
        return start(getattr(client, op), *([key] if key else [])), _ok

    def _told(self, name: str, line: str) -> None:
        """Says a line, and holds against it what comes of it."""
        text = self._invented(line).replace(',"...":"..."', "")
        told = json.loads(text)
        if "event" in told:
            subscribed = PLACEHOLDER.findall(line)[0]
            subscription, peer = self._feeds[name, subscribed]
            peer.say(text)
            found = self._world.start(subscription.next, PATIENCE).result(PATIENCE)
            _event_told(found, told, text)
            return
        placeholder = re.search(r'"id":"\$(\w+)"', line)
        assert placeholder, line
        peer, call, check = self._asked.pop(placeholder[1])
        if call is None:
            return
        peer.say(text)
        if told["ok"] or told["error"] == "not_found" and check is _get_done:
            check(call.result(PATIENCE), {**told, "text": text})
            return
        try:
            call.result(PATIENCE)
        except nkv.ServerError as error:
            _equal(error.code, told["error"])
            _equal((error.rev, error.at), (told.get("rev"), told.get("at")))
            assert type(error) is not nkv.ServerError, "a code without a class"
        else:
            raise AssertionError(f"no error came of {text}")

    def _greeted(self, name: str, peer: Any, client: Any, told: Any) -> None:
        _equal((client.server, client.epoch), (told["server"], told["epoch"]))
        _equal((client.initial_rev, client.limits), (told["rev"], told.get("limits", {})))
        self._clients[name] = client, peer

    def _close(self, name: str) -> None:
        if name in self._clients:
            client, peer = self._clients.pop(name)
            self._world.start(client.close).result(PATIENCE)
            _equal(peer.rest(), "")
        for place in [place for place in self._feeds if place[0] == name]:
            subscription, peer = self._feeds.pop(place)
            self._world.start(subscription.close).result(PATIENCE)
            _equal(peer.rest(), "")

    def _filled(self, line: str) -> str:
        """The line with what is bound."""
        line = PLACEHOLDER.sub(lambda hit: self._bound.get(hit[1], hit[0]), line)
        return line.replace('"$$', '"$')

    def _invented(self, line: str) -> str:
        """The line with what is bound, and something invented for what is not."""

        def invented(hit: Any) -> str:
            name = hit[1]
            if name == "_":
                return '"whatever"'
            number = re.fullmatch(r"[rn](\w*)", name)
            value = f'"{name}"'
            if number:
                value = number[1] if number[1].isdigit() else "7"
            return self._bound.setdefault(name, value)

        if '"limits"' not in line and '"...":"..."' in line and '"ok":true' in line:
            # A greeting of which the story tells no more.
            line = line.replace('"...":"..."', GREETING[1:-1].partition('"ok":true,')[2])
        return PLACEHOLDER.sub(invented, line).replace('"$$', '"$')


def _compare(expected: str, written: str) -> None:
    """Names and values are the same, values to the letter; the names in any order."""
    _equal(sorted(_flat(written)), sorted(_flat(expected)))


def _flat(text: str, path: str = "") -> List[Tuple[str, str]]:
    found: List[Tuple[str, str]] = []
    for name, value in members(text):
        if name == "ops":
            decoder, at = json.JSONDecoder(), 1
            while value[at] != "]":
                _, end = decoder.raw_decode(value, at)
                found += _flat(value[at:end], f"{at and len(found)}.")
                at = end + (value[end] == ",")
        elif name == "value":
            found.append((path + name, value))
        else:
            found.append((path + name, repr(json.loads(value))))
    return found


def _value(fields: Dict[str, str]) -> Any:
    if "base64" in fields:
        return base64.b64decode(json.loads(fields["base64"]))
    return nkv.Json(fields["value"])


def _options(fields: Dict[str, str]) -> Dict[str, Any]:
    told = {name: json.loads(value) for name, value in fields.items() if name not in ("value",)}
    names = ("if_rev", "if_changed", "lifetime")
    options = {name: told[name] for name in names if name in told}
    if "ttl_ms" in told:
        options["ttl"] = told["ttl_ms"] / 1000
    return options


def _batch(ops: str) -> nkv.Batch:
    batch, decoder, at = nkv.Batch(), json.JSONDecoder(), 1
    while ops[at] != "]":
        _, end = decoder.raw_decode(ops, at)
        fields = dict(members(ops[at:end]))
        at = end + (ops[end] == ",")
        op, key = json.loads(fields["op"]), json.loads(fields["key"])
        if op == "put":
            batch.put(key, _value(fields), **_options(fields))
        elif op == "delete":
            batch.delete(key, **_options(fields))
        else:
            batch.check(key, json.loads(fields["if_rev"]))
    return batch


def _equal(found: Any, expected: Any) -> None:
    assert found == expected, f"{found!r} instead of {expected!r}"


def _ok(found: Any, told: Any) -> None:
    pass


def _same(field: str) -> Callable[[Any, Any], None]:
    return lambda found, told: _equal(found, told[field])


def _put_done(found: nkv.Written, told: Any) -> None:
    _equal((found.rev, found.is_unchanged), (told["rev"], told.get("unchanged", False)))


def _get_done(found: Optional[nkv.Entry], told: Any) -> None:
    if found is None or not told["ok"]:
        _equal((found, told["ok"]), (None, False))
        return
    _entry_told(found, told, dict(members(told["text"])))


def _entry_told(found: nkv.Entry, told: Any, texts: Dict[str, str]) -> None:
    _equal((found.key, found.rev), (told["key"], told["rev"]))
    ttl = told.get("ttl_ms")
    _equal(found.lifetime, told.get("lifetime", "durable"))
    _equal(found.ttl, None if ttl is None else ttl / 1000)
    _value_told(found, told, texts)


def _value_told(found: Any, told: Any, texts: Dict[str, str]) -> None:
    if "base64" in told:
        data = base64.b64decode(told["base64"])
        _equal((found.raw, found.value), (data, data))
    else:
        _equal((found.raw, found.value), (texts["value"], told["value"]))


def _list_done(found: List[nkv.Entry], told: Any) -> None:
    entries, decoder, at = dict(members(told["text"]))["entries"], json.JSONDecoder(), 1
    _equal(len(found), len(told["entries"]))
    for entry, fields in zip(found, told["entries"]):
        _, end = decoder.raw_decode(entries, at)
        _entry_told(entry, fields, dict(members(entries[at:end])))
        at = end + 1


def _keys_done(found: List[str], told: Any) -> None:
    _equal(found, [entry["key"] for entry in told["entries"]])


def _event_told(found: Any, told: Any, text: str) -> None:
    kind = {"put": nkv.Put, "delete": nkv.Delete, "sync": nkv.Sync, "reset": nkv.Reset}
    _equal(type(found), kind[told["event"]])
    _equal(found.rev, told["rev"])
    if "key" in told:
        _equal(found.key, told["key"])
    if told["event"] == "put":
        _value_told(found, told, dict(members(text)))


def _read(path: Any) -> Tuple[List[Any], List[str]]:
    """A story's steps, with its lines as the texts that they are."""
    steps, decoder = [], json.JSONDecoder()
    for text in path.read_text().split("\n"):
        if text:
            steps.append(_with_texts(json.loads(text), text, decoder))
    return steps, steps[0].get("needs", [])


def _with_texts(step: Any, text: str, decoder: Any) -> Any:
    found = dict(members(text))
    if "any_order" in found:
        inner, at = [], 1
        array = found["any_order"]
        while array[at] != "]":
            part, end = decoder.raw_decode(array, at)
            inner.append(_with_texts(part, array[at:end], decoder))
            at = end + (array[end] == ",")
        step["any_order"] = inner
    if "line" in found:
        step["line"] = found["line"]
    return step


class Vectors(unittest.TestCase):
    def test_stories(self) -> None:
        self.assertTrue(STORIES, "there are no vectors")
        for path in STORIES:
            steps, needs = _read(path)
            lacks = set(needs) - KNOWN_NEEDS
            if lacks:
                with self.subTest(story=path.stem):
                    self.skipTest(f"{path.stem} is left out, it needs {', '.join(sorted(lacks))}")
                continue
            for make in (Threads, Loop):
                with self.subTest(story=path.stem, world=make.__name__):
                    world = make()
                    story = Story(world, steps)
                    try:
                        story.play()
                    finally:
                        story.end()
                        world.end()

    def test_most_stories_are_played(self) -> None:
        left_out = [path.stem for path in STORIES if set(_read(path)[1]) - KNOWN_NEEDS]
        self.assertLess(len(left_out), 5, left_out)


if __name__ == "__main__":
    unittest.main()
