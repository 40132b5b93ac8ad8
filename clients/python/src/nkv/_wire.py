"""The protocol's lines as values: what is asked becomes text, and what is told becomes fields.

A request is the text of its fields without the id, with what its answer is read by and whether it may be
repeated (`Retry`). So every operation is told once here, and clients only carry requests.
"""

from __future__ import annotations

import base64
import enum
import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, Generic, List, Optional, Tuple, TypeVar

from ._values import Entry, Value, Written, decode, dumps, payload
from .errors import BadKey, ProtocolError

T_co = TypeVar("T_co", covariant=True)
Fields = Dict[str, Any]


class Retry(enum.Enum):
    """Whether a request may be sent again when its answer was lost with the connection."""

    NEVER = 0
    SAME_HISTORY = 1
    """As long as revisions mean the same, because it says which revision it replaces."""
    HARMLESS = 2
    """What is there already changes nothing."""
    READ = 3


@dataclass(frozen=True)
class Request(Generic[T_co]):
    """What is asked, and how the answer is read."""

    body: str
    read: Callable[[Fields], T_co]
    retry: Retry = Retry.NEVER


@dataclass(frozen=True)
class Page:
    """A part of a list."""

    entries: List[Fields]
    has_more: bool


def hello(name: str, token: Optional[str]) -> Request[Fields]:
    shown = "" if token is None else f',"token":{dumps(token)}'
    return Request(f'"op":"hello","client":{dumps(name)}{shown}', _as_it_is)


def get(key: str) -> Request[Entry]:
    return Request(f'"op":"get","key":{_plain(key)}', entry, Retry.READ)


def page(pattern: str, after: Optional[str], keys_only: bool) -> Request[Page]:
    body = f'"op":"get","key":{_text(pattern)}'
    if after is not None:
        body += f',"after":{_text(after)}'
    if keys_only:
        body += ',"keys_only":true'
    return Request(
        body, lambda fields: Page(fields["entries"], fields.get("more", False)), Retry.READ
    )


def put(
    key: str,
    value: Any,
    if_rev: Optional[int] = None,
    if_changed: bool = False,
    lifetime: Optional[str] = None,
    ttl: Optional[float] = None,
) -> Request[Written]:
    body = f'"op":"put","key":{_text(key)},{payload(value)}'
    if if_rev is not None:
        body += f',"if_rev":{if_rev:d}'
    if if_changed:
        body += ',"if_changed":true'
    if lifetime is not None:
        body += f',"lifetime":{dumps(lifetime)}'
    if ttl is not None:
        body += f',"ttl_ms":{_milliseconds(ttl)}'
    retry = Retry.NEVER
    if if_rev is not None:
        retry = Retry.SAME_HISTORY
    elif if_changed:
        retry = Retry.HARMLESS
    return Request(body, _written, retry)


def delete(key: str, if_rev: Optional[int] = None) -> Request[int]:
    """Never repeated: it could take away what somebody else has put meanwhile."""
    return delete_matching(key, if_rev) if "*" not in key else _refuse(key)


def delete_matching(pattern: str, if_rev: Optional[int] = None) -> Request[int]:
    body = f'"op":"delete","key":{_text(pattern)}'
    if if_rev is not None:
        body += f',"if_rev":{if_rev:d}'
    return Request(body, lambda fields: int(fields["deleted"]))


def check(key: str, rev: int) -> str:
    return f'"op":"check","key":{_plain(key)},"if_rev":{rev:d}'


def batch(operations: List[str]) -> Request[int]:
    inner = ",".join(f"{{{operation}}}" for operation in operations)
    return Request(f'"op":"batch","ops":[{inner}]', lambda fields: int(fields["rev"]))


def claim(key: str) -> Request[int]:
    return Request(f'"op":"claim","key":{_plain(key)}', lambda fields: int(fields["rev"]))


def release(key: str) -> Request[int]:
    return Request(f'"op":"release","key":{_plain(key)}', lambda fields: int(fields["rev"]))


def subscribe(
    pattern: str,
    exact: bool,
    initial: bool,
    cuts: bool,
    since: Optional[Tuple[int, str]],
) -> Request[Fields]:
    body = f'"op":"subscribe","key":{_text(pattern)}'
    if exact:
        body += ',"exact":true'
    if not initial:
        body += ',"initial":false'
    if cuts:
        body += ',"cuts":true'
    if since is not None:
        body += f',"since":{since[0]:d},"epoch":{dumps(since[1])}'
    return Request(body, _as_it_is)


def stats() -> Request[Fields]:
    return Request('"op":"stats"', _without_frame, Retry.READ)


def clients() -> Request[List[Fields]]:
    return Request('"op":"clients"', lambda fields: list(fields["clients"]), Retry.READ)


def ping() -> Request[None]:
    return Request('"op":"ping"', lambda fields: None, Retry.READ)


def entry(fields: Fields) -> Entry:
    """The entry that a response, or an element of a list, tells."""
    value: Value = fields["value"]
    ttl = fields.get("ttl_ms")
    return Entry(
        fields["key"],
        value.value,
        fields["rev"],
        value.raw,
        fields.get("lifetime", "durable"),
        None if ttl is None else ttl / 1000,
    )


def parse(line: bytes) -> Fields:
    """The fields of a line, with every value as a `Value`. Raises `ProtocolError`."""
    try:
        text = line.decode()
        if '"value"' in text or '"base64"' in text:
            fields, end = _object(text, _past_space(text, 0))
        else:
            fields, end = decode(text, 0)
        if not isinstance(fields, dict) or text[end:].strip(" \t\r\n"):
            raise ValueError("the line is not one object")
        return fields
    except (ValueError, IndexError, RecursionError) as error:
        # Not the error itself: it would show the line.
        raise ProtocolError(f"a line that makes no sense ({type(error).__name__})") from None


# Most fields are like this, and one look tells all of them. What is not goes the long way.
_PLAIN = re.compile(r'"([^"\\]*)":("[^"\\\x00-\x1f]*"|0|[1-9][0-9]{0,17}|true|false)([,}])').match
_NAME = re.compile(r'"([^"\\]*)"[ \t\r\n]*:[ \t\r\n]*').match
# Most entries of a list are like this, around their values.
_ENTRY = re.compile(r'\{"key":"([^"\\\x00-\x1f]*)","value":(?=\S)').match
_ENTRY_END = re.compile(r',"rev":([1-9][0-9]{0,17})(?:,"lifetime":"([a-z]+)")?\}').match
_WORDS = {"true": True, "false": False}


def _object(text: str, at: int) -> Tuple[Fields, int]:
    """An object with the text of its value: as the standard library has it, but that this is kept."""
    fields: Fields = {}
    if text[at] != "{":
        raise ValueError("no object")
    at = _past_space(text, at + 1)
    if text[at] == "}":
        return fields, at + 1
    value: Any
    while True:
        plain = _PLAIN(text, at)
        if plain is not None:
            name, raw, end = plain.groups()
            at = plain.end()
            value = raw[1:-1] if raw[0] == '"' else _WORDS[raw] if raw in _WORDS else int(raw)
        else:
            at = _past_space(text, at)
            named = _NAME(text, at)
            if named is None:
                raise ValueError("no name")
            name, start = named[1], named.end()
            value, at = (_entries if name == "entries" else decode)(text, start)
            raw = text[start:at]
            at = _past_space(text, at)
            end = text[at]
            at += 1
        if name == "value":
            value = Value(value, raw)
        elif name == "base64":
            data = base64.b64decode(value, validate=True)
            name, value = "value", Value(data, data)
        fields[name] = value
        if end == "}":
            return fields, at
        if end != ",":
            raise ValueError("neither the next field nor the end")


def _entries(text: str, at: int) -> Tuple[List[Fields], int]:
    entries: List[Fields] = []
    if text[at] != "[":
        raise ValueError("no array")
    at = _past_space(text, at + 1)
    if text[at] == "]":
        return entries, at + 1
    while True:
        fields, at = _plain_entry(text, at) or _object(text, at)
        entries.append(fields)
        at = _past_space(text, at)
        end = text[at]
        at += 1
        if end == "]":
            return entries, at
        if end != ",":
            raise ValueError("neither the next entry nor the end")
        at = _past_space(text, at)


def _plain_entry(text: str, at: int) -> Optional[Tuple[Fields, int]]:
    begin = _ENTRY(text, at)
    if begin is None:
        return None
    start = begin.end()
    value, at = decode(text, start)
    end = _ENTRY_END(text, at)
    if end is None:
        return None
    fields = {"key": begin[1], "value": Value(value, text[start:at]), "rev": int(end[1])}
    if end[2] is not None:
        fields["lifetime"] = end[2]
    return fields, end.end()


def _past_space(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def _plain(key: str) -> str:
    return _text(key) if "*" not in key else _refuse(key)


def _text(key: str) -> str:
    # Half of a surrogate pair, as in names of files that are not UTF-8, would be an escape that stands for nothing.
    try:
        key.encode()
    except (UnicodeEncodeError, AttributeError):
        raise BadKey(f"{key!a} is no text that UTF-8 can write") from None
    return dumps(key)


def _refuse(key: str) -> Any:
    raise BadKey(f"{key!r} is a pattern, and a key is needed")


def _milliseconds(seconds: float) -> int:
    return max(round(seconds * 1000), 1 if seconds > 0 else 0)


def _written(fields: Fields) -> Written:
    return Written(fields["rev"], fields.get("unchanged", False))


def _as_it_is(fields: Fields) -> Fields:
    return fields


def _without_frame(fields: Fields) -> Fields:
    return {name: value for name, value in fields.items() if name not in ("id", "ok")}
