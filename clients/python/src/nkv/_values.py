"""Values: Python's objects outside, one line of JSON text or bytes on the wire.

A JSON value is kept by the daemon byte for byte. Python's numbers are not: a float is rounded, and 1.0
comes back as 1.0 but 1.00 does not. So whatever is read has its text too (``raw``), and `Json` puts text
as it is.
"""

from __future__ import annotations

import base64
import decimal
import json
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional, Tuple, Union

from .errors import BadValue

Raw = Union[str, bytes]
"""A value as it was put: JSON text, or bytes."""

_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_ascii_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


class Json(str):
    """JSON text, to be put as it is: ``link.put("price", Json("1.00"))``.

    Only line ends between its parts, which the protocol can't carry, become spaces.
    """


class Value(NamedTuple):
    """What was read: an object of Python's, and the text or bytes that it is."""

    value: Any
    raw: Raw


@dataclass(frozen=True)
class Entry:
    """One key with what it holds."""

    key: str
    value: Any
    """Any JSON value as Python has it, or bytes."""
    rev: int
    """The revision of its last change."""
    raw: Raw
    """The value as it was put: JSON text byte for byte, or the bytes."""
    lifetime: str = "durable"
    ttl: Optional[float] = None
    """The seconds that are left of its time to live, where it has one."""


@dataclass(frozen=True)
class Written:
    """What a put came to."""

    rev: int
    """The key's revision now."""
    is_unchanged: bool = False
    """Whether the value was there already (with ``if_changed``)."""


def dumps(value: Any) -> str:
    """One line of JSON text that is UTF-8."""
    try:
        text = _encoder.encode(value)
        text.encode()
        return text
    except UnicodeEncodeError:
        # Half of a surrogate pair is JSON, but only as an escape.
        return _ascii_encoder.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadValue(f"the value has no JSON form: {error}") from error


def payload(value: Any) -> str:
    """The field of a request that holds a value."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f'"base64":"{base64.b64encode(value).decode()}"'
    if isinstance(value, Json):
        return f'"value":{_checked(value)}'
    return f'"value":{dumps(value)}'


def decode(text: str, at: int) -> Tuple[Any, int]:
    """The JSON value that begins there, and where it ends."""
    try:
        return _decoder.raw_decode(text, at)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return _long_decoder.raw_decode(text, at)


def _checked(text: Json) -> str:
    bare = text.strip(" \t\r\n")
    try:
        _, end = decode(bare, 0)
        if end != len(bare):
            raise ValueError(f"more than one value: {len(bare) - end} characters follow")
        bare.encode()
    except (ValueError, RecursionError) as error:
        raise BadValue(f"the text is no JSON value: {error}") from error
    return bare.replace("\n", " ").replace("\r", " ")


def _no_constant(name: str) -> None:
    raise json.JSONDecodeError(f"{name} is no JSON", name, 0)


def _long_integer(digits: str) -> Any:
    # Python refuses to make an integer of thousands of digits, for it would take long.
    try:
        return int(digits)
    except ValueError:
        return decimal.Decimal(digits)


_decoder = json.JSONDecoder(parse_constant=_no_constant)
_long_decoder = json.JSONDecoder(parse_constant=_no_constant, parse_int=_long_integer)
