"""A mirror's copy without its connection: what was told goes in, differences come out.

**Cuts.** `Gatherer` holds events back until the `Sync` that says that they are whole, and `Replica` takes
them in at once, so nobody sees half a batch. When a connection is lost, what was held back is forgotten: the
next one begins at the last cut.

**Only true differences are changes.** Of the events of one key the last counts. A put of the value that is
there already moves the revision and nothing else. Where all entries are told anew, after a `Reset` or for
the first time, they are compared with the copy: what did not come again was deleted. Values are compared as
they were put, so 1.0 and 1 are two.

What does not parse is a change like any other, which says why. The copy then has no value for that key.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Callable, Dict, Generic, Iterator, List, Mapping, Optional, TypeVar, Union

from ._events import Delete, Event, Position, Put, Reset, Sync
from ._values import Raw

T = TypeVar("T")


@dataclass(frozen=True)
class Created(Generic[T]):
    """There is an entry that was not there."""

    key: str
    value: T
    rev: int


@dataclass(frozen=True)
class Modified(Generic[T]):
    """An entry has another value. ``old`` is the one before, `None` where that did not parse."""

    key: str
    value: T
    old: Optional[T]
    rev: int


@dataclass(frozen=True)
class Deleted(Generic[T]):
    """An entry is gone. ``old`` is the value before, ``rev`` a revision at which it was gone."""

    key: str
    old: Optional[T]
    rev: int


@dataclass(frozen=True)
class Invalid(Generic[T]):
    """An entry, a new one or one that was there, has a value that does not parse."""

    key: str
    raw: Raw
    error: Exception
    old: Optional[T]
    rev: int


Change = Union[Created[T], Modified[T], Deleted[T], Invalid[T]]


@dataclass(frozen=True)
class Cut(Generic[T]):
    """What is different between two moments at which all had been told."""

    rev: int
    """The copy is exactly the keyspace at this revision."""
    changes: List[Change[T]]
    """The differences, in the order of their revisions. There may be none."""
    is_reset: bool
    """Whether all entries were told anew, and compared with the copy."""
    is_caught_up: bool
    """Whether it is the first on its connection."""


@dataclass(frozen=True)
class Held(Generic[T]):
    """One entry of the copy: its value, or why there is none."""

    raw: Raw
    value: Optional[T]
    error: Optional[Exception]
    rev: int


class View(Mapping[str, T]):
    """One consistent state of a mirror: a mapping of keys to values, in the order of the keys.

    It does not change. Entries whose values don't parse are only in `entries`.
    """

    def __init__(self, entries: Dict[str, Held[T]], rev: Optional[int]) -> None:
        self.entries: Mapping[str, Held[T]] = entries
        """All entries, with their texts and revisions."""
        self.rev = rev
        """The revision at which the keyspace was exactly this; `None` before the first state."""
        self._invalid = sum(held.error is not None for held in entries.values())

    def __getitem__(self, key: str) -> T:
        held = self.entries[key]
        if held.error is not None:
            raise KeyError(key)
        value: Any = held.value
        found: T = value
        return found

    def __iter__(self) -> Iterator[str]:
        # Python orders text by code points, which is the order of the UTF-8 bytes.
        return iter(sorted(key for key, held in self.entries.items() if held.error is None))

    def __len__(self) -> int:
        return len(self.entries) - self._invalid

    def __repr__(self) -> str:
        return f"<View of {len(self.entries)} entries at {self.rev}>"


@dataclass(frozen=True)
class Told:
    """Everything that was told between two cuts."""

    events: List[Union[Put, Delete]]
    is_whole: bool
    """Whether the events are a whole state, from nothing on."""
    is_caught_up: bool
    position: Position


class Gatherer:
    """What has been told since the last cut, on one connection."""

    def __init__(self, since: Optional[Position]) -> None:
        self._events: List[Union[Put, Delete]] = []
        self._is_whole = since is None
        self._is_first = True

    def push(self, event: Event, epoch: str) -> Optional[Told]:
        """Takes an event of a history, and gives what was gathered where that is whole."""
        if isinstance(event, Sync):
            told = Told(
                self._events, self._is_whole, self._is_first, Position(event.rev, epoch)
            )
            self._events, self._is_whole, self._is_first = [], False, False
            return told
        if isinstance(event, Reset):
            self._events, self._is_whole = [], True
        else:
            self._events.append(event)
        return None


class Replica(Generic[T]):
    """The entries that a mirror holds. One thread changes them, any may look."""

    def __init__(self, parse: Callable[[Any], T]) -> None:
        self._parse = parse
        self._entries: Dict[str, Held[T]] = {}
        self._lock = threading.Lock()
        self._view: Optional[View[T]] = None
        self.position: Optional[Position] = None
        """Where the copy stands, after the first cut."""

    def view(self) -> View[T]:
        """One state of the copy. It is copied once for each state that is looked at."""
        with self._lock:
            if self._view is None:
                rev = None if self.position is None else self.position.rev
                self._view = View(dict(self._entries), rev)
            return self._view

    def get(self, key: str) -> Optional[T]:
        """The value of a key."""
        held = self._entries.get(key)
        return None if held is None else held.value

    def apply(self, told: Told) -> Cut[T]:
        """Takes in what was told up to a cut."""
        newest: Dict[str, Union[Put, Delete]] = {}
        for event in told.events:
            newest[event.key] = event
        # Parsing is the caller's code, so it is not done under the lock.
        puts = {
            event.key: self._held(event)
            for event in newest.values()
            if isinstance(event, Put) and not self._has(event)
        }
        changes: List[Change[T]] = []
        with self._lock:
            gone = [key for key in self._entries if key not in newest] if told.is_whole else []
            for event in newest.values():
                if isinstance(event, Delete):
                    changes += self._remove(event.key, event.rev)
                elif event.key in puts:
                    changes.append(self._put(event.key, puts[event.key]))
                else:
                    held = self._entries[event.key]
                    self._entries[event.key] = Held(held.raw, held.value, held.error, event.rev)
            for key in gone:
                changes += self._remove(key, told.position.rev)
            self.position = told.position
            self._view = None
        changes.sort(key=lambda change: change.rev)
        return Cut(told.position.rev, changes, told.is_whole, told.is_caught_up)

    def _has(self, event: Put) -> bool:
        held = self._entries.get(event.key)
        return held is not None and held.raw == event.raw

    def _held(self, event: Put) -> Held[T]:
        try:
            return Held(event.raw, self._parse(event.value), None, event.rev)
        except Exception as error:
            return Held(event.raw, None, error, event.rev)

    def _put(self, key: str, held: Held[T]) -> Change[T]:
        before = self._entries.get(key)
        self._entries[key] = held
        old = None if before is None else before.value
        if held.error is not None:
            return Invalid(key, held.raw, held.error, old, held.rev)
        value: Any = held.value
        if before is None:
            return Created(key, value, held.rev)
        return Modified(key, value, old, held.rev)

    def _remove(self, key: str, rev: int) -> List[Change[T]]:
        held = self._entries.pop(key, None)
        return [] if held is None else [Deleted(key, held.value, rev)]
