"""A party of the tests in tests/interop: it is told commands by lines of JSON, carries them out with the Python
client, and answers with what that said. party.rs has the types.

    agent.py ADDRESS [TOKEN]
"""

import base64
import json
import queue
import sys
import threading
from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Optional

import nkv

PATIENCE = 60

Answer = Dict[str, Any]


@dataclass
class Device:
    """A structure such as a service has."""

    name: str
    mtu: int
    up: bool
    serial: int
    load: float
    gateway: Optional[str]
    addresses: List[str]
    labels: Dict[str, str]


class Party:
    """What a command does stands in the method of its name."""

    def __init__(self, address: str, token: Optional[str] = None) -> None:
        self.link = nkv.Link(address, token=token)
        self.states: "queue.Queue[Answer]" = queue.Queue()
        self.mirroring = threading.Lock()

    def key(self, segments: List[str]) -> Answer:
        key = nkv.key(*segments)
        return {"key": key, "segments": nkv.segments(key)}

    def put(self, key: str, value: Answer, ttl_ms: Optional[int], **terms: Any) -> Answer:
        ttl = None if ttl_ms is None else ttl_ms / 1000
        return written(self.link.put(key, native(value), ttl=ttl, **terms))

    def put_typed(self, key: str, json: str, kind: str) -> Answer:
        value = decode(json, kind)
        return written(self.link.put(key, asdict(value) if kind == "device" else value))

    def is_typed(self, key: str, json: str, kind: str) -> Answer:
        found = self.link.get(key)
        value = None if found is None else found.value
        if kind == "device" and value is not None:
            value = Device(**value)
        wanted = decode(json, kind)
        return {"is_same": exactly(wanted) == exactly(value), "instead": repr(value)}

    def get(self, key: str) -> Answer:
        found = self.link.get(key)
        return {"entries": [] if found is None else [entry(found)]}

    def list(self, pattern: str) -> Answer:
        return {"entries": [entry(found) for found in self.link.list(pattern)]}

    def delete(self, pattern: str, if_rev: Optional[int]) -> Answer:
        if "*" in pattern:
            return {"count": self.link.delete_matching(pattern)}
        return {"count": int(self.link.delete(pattern, if_rev=if_rev))}

    def batch(self, operations: List[Answer]) -> Answer:
        batch = nkv.Batch()
        for operation in operations:
            if operation["op"] == "put":
                batch.put(operation["key"], native(operation["value"]))
            elif operation["op"] == "delete":
                batch.delete(operation["pattern"])
            else:
                batch.check(operation["key"], operation["rev"])
        return {"rev": self.link.batch(batch)}

    def claim(self, key: str) -> Answer:
        self.claimed = self.link.claim(key)
        return {}

    def release(self) -> Answer:
        self.claimed.close()
        return {}

    def announce(self, key: str, json: str) -> Answer:
        self.announcement = self.link.announce(key, nkv.Json(json))
        return {}

    def subscribe(self, pattern: str) -> Answer:
        self.subscription = self.link.subscribe(pattern, cuts=True)
        self.subscription.begin()
        return {}

    def told(self) -> Answer:
        changes: List[Answer] = []
        while True:
            event = self.subscription.next(timeout=PATIENCE)
            if isinstance(event, nkv.Sync):
                return {"rev": event.rev, "changes": changes}
            kind, key = type(event).__name__.lower(), getattr(event, "key", "")
            value = held(event.raw) if isinstance(event, nkv.Put) else None
            changes.append({"kind": kind, "key": key, "value": value})

    def mirror(self, pattern: str) -> Answer:
        # The handler may be called before this has its mirror.
        with self.mirroring:
            self.copy = self.link.mirror(pattern, on_cut=self.note)
        return {}

    def note(self, cut: "nkv.Cut[Any]") -> None:
        """The mirror's handler. The copy moves on when it returns."""
        changes = [{"kind": type(one).__name__.lower(), "key": one.key, "value": None} for one in cut.changes]
        with self.mirroring:
            view = self.copy.view()
        assert view.rev == cut.rev, (view.rev, cut.rev)
        entries = [
            {"key": key, "value": held(one.raw), "rev": one.rev, "lifetime": None, "ttl_ms": None}
            for key, one in view.entries.items()
        ]
        self.states.put({"rev": cut.rev, "changes": changes, "entries": entries})

    def state(self) -> Answer:
        return self.states.get(timeout=PATIENCE)


def native(value: Answer) -> Any:
    """What the client takes for a value: JSON text as it is, or bytes."""
    if "json" in value:
        return nkv.Json(value["json"])
    return base64.b64decode(value["base64"])


def decode(text: str, kind: str) -> Any:
    value = json.loads(text)
    return Device(**value) if kind == "device" else value


def exactly(value: Any) -> str:
    """What tells True from 1, and 1.0 from 1, which Python takes for the same."""
    return json.dumps(asdict(value) if isinstance(value, Device) else value, sort_keys=True)


def held(raw: Any) -> Answer:
    if isinstance(raw, str):
        return {"json": raw}
    return {"base64": base64.b64encode(raw).decode()}


def entry(found: nkv.Entry) -> Answer:
    ttl_ms = None if found.ttl is None else round(found.ttl * 1000)
    return {
        "key": found.key,
        "value": held(found.raw),
        "rev": found.rev,
        "lifetime": found.lifetime,
        "ttl_ms": ttl_ms,
    }


def written(written: nkv.Written) -> Answer:
    return {"rev": written.rev, "is_unchanged": written.is_unchanged}


def main() -> None:
    party = Party(*sys.argv[1:])
    for line in sys.stdin.buffer:
        command = json.loads(line)
        try:
            answer = getattr(party, command.pop("do"))(**command)
        except nkv.ServerError as error:
            answer = {"refused": error.code, "rev": error.rev, "at": error.at}
        except nkv.Error as error:
            answer = {"failed": repr(error)}
        print(json.dumps(answer), flush=True)


main()
