"""What a subscription tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Union

from ._values import Raw
from ._wire import Fields


@dataclass(frozen=True)
class Put:
    """The key has this value."""

    key: str
    value: Any
    rev: int
    """The revision of its last change."""
    raw: Raw
    """The value as it was put: JSON text byte for byte, or the bytes."""


@dataclass(frozen=True)
class Delete:
    """The key is gone. It may be one that was never told."""

    key: str
    rev: int


@dataclass(frozen=True)
class Sync:
    """What was told so far is exactly the state at this revision."""

    rev: int


@dataclass(frozen=True)
class Reset:
    """Forget what was told: all current entries follow, then `Sync`."""

    rev: int


Event = Union[Put, Delete, Sync, Reset]


@dataclass(frozen=True)
class Position:
    """Where a subscription may go on: everything up to ``rev`` has been told."""

    rev: int
    epoch: str
    """The history that the revision belongs to."""


def read(fields: Fields) -> Optional[Event]:
    """The event that a line tells; `None` for one of a kind that is not known."""
    kind, rev = fields["event"], fields["rev"]
    if kind == "put":
        value = fields["value"]
        return Put(fields["key"], value.value, rev, value.raw)
    if kind == "delete":
        return Delete(fields["key"], rev)
    if kind == "sync":
        return Sync(rev)
    return Reset(rev) if kind == "reset" else None
