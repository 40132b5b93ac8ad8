"""One connection, and what can be asked over it or over a link."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Tuple, Type, TypeVar

from . import _address, _wire
from ._address import Address
from ._loop import Loop
from ._values import Entry, Written
from ._wire import Fields, Request
from ._world import Connection, World
from .errors import (
    Conflict,
    ConnectError,
    Disconnected,
    NotFound,
    ProtocolError,
    ServerError,
    Unanswered,
    refusal,
)

T = TypeVar("T")
C = TypeVar("C", bound="Client")

_NAME_BYTES_MAX = 128


@dataclass(frozen=True)
class Options:
    """How connections are made, and how long is waited for what. Times are seconds."""

    address: Address
    name: str
    token: Optional[str]
    connect_timeout: float
    reply_timeout: float
    patience: float
    pauses: Tuple[float, float]

    @staticmethod
    def of(
        address: Optional[str],
        name: Optional[str],
        token: Optional[str],
        connect_timeout: float,
        reply_timeout: float,
        patience: float = 0.0,
        pauses: Tuple[float, float] = (0.02, 2.0),
    ) -> Options:
        place = _address.default() if address is None else _address.parse(address)
        if name is None:
            name = os.path.basename(sys.argv[0] if sys.argv else "") or "python"
        name = name.encode(errors="replace")[:_NAME_BYTES_MAX].decode(errors="ignore")
        return Options(place, name, token, connect_timeout, reply_timeout, patience, pauses)


class Batch:
    """Operations that are carried out all or not at all, in order and with nothing of others in between.

    >>> batch = Batch().check("config.locked", 0).delete("config.dns.*").put("config.dns.1", "9.9.9.9")
    >>> len(batch)
    3

    Conditions are judged against the state before the batch. A refusal tells by ``at`` which operation it
    was, counted from 0. A batch may be used again.
    """

    def __init__(self) -> None:
        self._operations: List[str] = []

    def put(
        self,
        key: str,
        value: Any,
        *,
        if_rev: Optional[int] = None,
        if_changed: bool = False,
        lifetime: Optional[str] = None,
        ttl: Optional[float] = None,
    ) -> Batch:
        """Adds a put; see `Client.put`."""
        self._operations.append(_wire.put(key, value, if_rev, if_changed, lifetime, ttl).body)
        return self

    def delete(self, pattern: str, *, if_rev: Optional[int] = None) -> Batch:
        """Adds a deletion of a key or of a pattern's keys."""
        self._operations.append(_wire.delete_matching(pattern, if_rev).body)
        return self

    def check(self, key: str, rev: int) -> Batch:
        """Adds a condition: the key has this revision, 0 for that there is none."""
        self._operations.append(_wire.check(key, rev))
        return self

    def __len__(self) -> int:
        return len(self._operations)


class Commands:
    """What can be asked. `Client` asks once, `Link` as often as does no harm."""

    _patience: float

    async def _ask(self, request: Request[T]) -> T:
        raise NotImplementedError

    async def get(self, key: str) -> Optional[Entry]:
        """The entry of a key; `None` where there is no such key."""
        try:
            return await self._ask(_wire.get(key))
        except NotFound:
            return None

    async def put(
        self,
        key: str,
        value: Any,
        *,
        if_rev: Optional[int] = None,
        if_changed: bool = False,
        lifetime: Optional[str] = None,
        ttl: Optional[float] = None,
    ) -> Written:
        """Gives a key a value: whatever `json` can write, bytes, or `Json` text as it is.

        ``if_rev``: only if the key's revision is this one, 0 for that there is no such key; else `Conflict`.
        ``if_changed``: a value that is there already is left alone.
        ``lifetime``: ``"durable"`` (the default), ``"boot"`` or ``"session"``.
        ``ttl``: seconds after which it is deleted unless it is put again.
        """
        return await self._ask(_wire.put(key, value, if_rev, if_changed, lifetime, ttl))

    async def delete(self, key: str, *, if_rev: Optional[int] = None) -> bool:
        """Deletes a key, and tells whether it was there."""
        return await self._ask(_wire.delete(key, if_rev)) > 0

    async def delete_matching(self, pattern: str) -> int:
        """Deletes all keys of a pattern, one after the other, and tells how many."""
        return await self._ask(_wire.delete_matching(pattern))

    async def list(self, pattern: str = "*") -> List[Entry]:
        """The entries of a pattern, in the order of their keys. It is no snapshot; a mirror is."""
        if "*" not in pattern:
            entry = await self.get(pattern)
            return [] if entry is None else [entry]
        return [_wire.entry(fields) for fields in await self._pages(pattern, False)]

    async def keys(self, pattern: str = "*") -> List[str]:
        """The keys of a pattern, in order."""
        if "*" not in pattern:
            return [] if await self.get(pattern) is None else [pattern]
        return [fields["key"] for fields in await self._pages(pattern, True)]

    async def batch(self, batch: Batch) -> int:
        """Carries out a batch, and gives the revision of its last change."""
        return await self._ask(_wire.batch(batch._operations))

    async def update(self, key: str, change: Callable[[Any], Any], *, default: Any = None) -> int:
        """Reads a key, makes a new value of its value, and puts that if nobody else was faster.

        Otherwise it begins again with what is there then. The function is given ``default`` where there
        is no such key, and returns `None` to leave the key as it is. The entry keeps its lifetime and what
        is left of its time to live. Gives the revision of what is there now, 0 for nothing.
        """
        deadline = time.monotonic() + self._patience
        while True:
            entry = await self.get(key)
            value = change(default if entry is None else entry.value)
            rev = 0 if entry is None else entry.rev
            if value is None:
                return rev
            terms: Dict[str, Any] = {}
            if entry is not None and entry.lifetime != "durable":
                terms = {"lifetime": entry.lifetime, "ttl": entry.ttl}
            try:
                return (await self.put(key, value, if_rev=rev, **terms)).rev
            except Conflict:
                if time.monotonic() >= deadline:
                    raise

    async def stats(self) -> Dict[str, Any]:
        """The daemon's counters."""
        return await self._ask(_wire.stats())

    async def clients(self) -> List[Dict[str, Any]]:
        """The daemon's connections, an object each."""
        return await self._ask(_wire.clients())

    async def ping(self) -> None:
        """Returns when everything that was asked before has been carried out."""
        await self._ask(_wire.ping())

    async def _pages(self, pattern: str, keys_only: bool) -> List[Fields]:
        found: List[Fields] = []
        after = None
        while True:
            page = await self._ask(_wire.page(pattern, after, keys_only))
            found += page.entries
            if not page.has_more or not page.entries:
                return found
            after = found[-1]["key"]


class Client(Commands):
    """One connection. It ends once, does not come back, and repeats nothing.

    For programs that run briefly, and where the connection itself counts: what it puts with the lifetime
    ``session`` goes with it. `Link` is for everything else.
    """

    _world: World = Loop()

    def __init__(self, connection: Connection, greeting: Fields, reply_timeout: float) -> None:
        """Made by `connect`, or by `Link.client`."""
        self._connection = connection
        self._patience = reply_timeout
        self.server: str = greeting["server"]
        """The daemon's name and version."""
        self.epoch: str = greeting["epoch"]
        """The history that revisions belong to."""
        self.initial_rev: int = greeting["rev"]
        """The keyspace's revision when the connection was made."""
        self.limits: Dict[str, int] = greeting.get("limits", {})
        """The daemon's limits."""

    @classmethod
    async def connect(
        cls: Type[C],
        address: Optional[str] = None,
        *,
        name: Optional[str] = None,
        token: Optional[str] = None,
        connect_timeout: float = 10.0,
        reply_timeout: float = 60.0,
    ) -> C:
        """Connects to an address (a path or ``HOST:PORT``), else to where `nkv-client` does.

        ``name`` is what the daemon shows, the program's by default. ``token`` is for daemons that ask for one
        over TCP. An answer that takes longer than ``reply_timeout`` is a `Timeout`.
        """
        options = Options.of(address, name, token, connect_timeout, reply_timeout)
        return await cls._dial(cls._world, options)

    @classmethod
    async def _dial(
        cls: Type[C],
        world: World,
        options: Options,
        made: Callable[[Connection], None] = lambda connection: None,
    ) -> C:
        """Connects and greets. Who is told of the connection can close it meanwhile."""
        deadline = time.monotonic() + options.connect_timeout
        connection = await world.connect(options.address, options.connect_timeout)
        try:
            made(connection)
            request = _wire.hello(options.name, options.token)
            left = max(0.0, deadline - time.monotonic())
            greeting = await connection.ask(request.body, left)
            if not greeting["ok"]:
                raise refusal(greeting)
            if greeting.get("protocol") != 1:
                raise ProtocolError(f"it speaks version {greeting.get('protocol')}")
            return cls(connection, greeting, options.reply_timeout)
        except (Disconnected, Unanswered) as error:
            connection.close()
            if isinstance(error.__cause__, (ProtocolError, ServerError)):
                raise error.__cause__ from None
            # A greeting whose fate is unknown is no request of the caller's.
            reason = error.__cause__ or error
            raise ConnectError(f"cannot connect to {options.address}: {reason}") from error
        except KeyError as error:
            connection.close()
            raise ProtocolError(f"a greeting without {error}") from None
        except BaseException:
            connection.close()
            raise

    async def _ask(self, request: Request[T]) -> T:
        fields = await self._connection.ask(request.body, self._patience)
        if not fields["ok"]:
            raise refusal(fields)
        try:
            return request.read(fields)
        except (KeyError, TypeError, ValueError) as error:
            self._connection.close()
            raise ProtocolError(f"an answer that makes no sense: {error!r}") from None

    async def claim(self, key: str) -> int:
        """Takes a key and all that lies below it for this connection, and gives the claim's revision.

        Until it is released, or the connection ends, nobody else can put or delete anything there.
        Raises `Conflict` where somebody else has claimed it, or something above or below it.
        """
        return await self._ask(_wire.claim(key))

    async def release(self, key: str) -> None:
        """Lets go of what was claimed. Raises `NotFound` where it was not."""
        await self._ask(_wire.release(key))

    def is_closed(self) -> bool:
        """Whether the connection is known to have ended."""
        return self._connection.is_closed()

    async def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    async def __aenter__(self: C) -> C:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
