"""Events over lost connections and restarts of the daemon.

**A connection for each.** Nobody reads a subscription's socket but the one who takes its events. Who is
slow lets the socket fill, and then it is the daemon that waits: it tells the newest value of each key when
there is room again. Nothing is queued here beyond what was read at once, some 16 KiB.

`Feed` connects and tells when a connection is lost. `Subscription` passes the events on as they are. After
the first `Sync` that is simple: it resumes at the position of the last event that it handed out. Where the
daemon answers with a `Reset` all entries come again, and are passed on: to tell true differences it would
have to keep every value, which is a mirror's work.

Before the first `Sync` there is no position, because the entries come in the order of their keys. So until
then (and only then, since this grows with the keys) it remembers what it has told. If the connection is
lost meanwhile, the entries come again from the start, those told already are left out, and those that did
not come again were deleted, which is told before the `Sync`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Deque, Dict, Optional

from . import _events, _wire
from ._address import Tcp
from ._client import Client, Options
from ._events import Delete, Event, Position, Put, Reset, Sync
from ._retry import Backoff, is_passing
from ._world import Connection, World, after, left, sooner
from .errors import ConnectError, Disconnected, Error, ProtocolError, Unanswered, again

_SILENCE_SECONDS = 15.0
_REFUSED_PAUSES = (0.1, 5.0)


def silence_of(options: Options) -> Optional[float]:
    """How long a peer may be silent before it is asked for a sign of life: over TCP it can vanish."""
    return _SILENCE_SECONDS if isinstance(options.address, Tcp) else None


class Feed:
    """One subscription after the other to the same pattern. For one who takes, and any who close."""

    def __init__(
        self, world: World, options: Options, pattern: str, exact: bool, cuts: bool
    ) -> None:
        self._world = world
        self._options = options
        self._pattern = pattern
        self._exact = exact
        self._cuts = cuts
        self._silence = silence_of(options)
        self._lock = threading.Lock()
        self._closing = world.signal()
        self._client: Optional[Client] = None
        self._connection: Optional[Connection] = None
        self._number = 0
        self._since = 0.0
        self._backoff = Backoff(options.pauses)
        self._refused = Backoff(_REFUSED_PAUSES)
        self._not_before = 0.0
        self.epoch = ""
        """The history of what is told now."""
        self.rev = 0
        """The keyspace's revision when this subscription began."""
        self.error: Optional[Error] = None
        """Why there is no connection, where there is none."""

    @property
    def is_live(self) -> bool:
        """Whether there is a subscription."""
        return self._client is not None

    @property
    def is_closed(self) -> bool:
        """Whether it was ended here."""
        return self._closing.count > 0

    async def open(
        self, deadline: Optional[float], initial: bool, since: Optional[Position]
    ) -> bool:
        """Subscribes, and tries until then; `False` where there was no time left, or it was closed.

        Raises what does not go away by itself.
        """
        while not self.is_closed:
            pause = max(0.0, self._not_before - time.monotonic())
            is_last = deadline is not None and self._not_before >= deadline
            wait = sooner(pause, left(deadline))
            if wait:
                await self._closing.wait(0, wait)
            if self.is_closed or (is_last and self.error is not None):
                return False
            try:
                await self._subscribe(initial, since)
                return True
            except Error as error:
                backoff = self._backoff
                if not isinstance(error, (ConnectError, Disconnected)):
                    backoff = self._refused
                self._not_before = time.monotonic() + backoff.pause()
                self.error = error
                if not is_passing(error):
                    raise
        return False

    async def event(self, deadline: Optional[float]) -> Optional[Event]:
        """The next event; none where there is none in time. Raises `Disconnected` at the end."""
        client = self._client
        if client is None:
            raise Disconnected("the connection has ended") from self.error
        try:
            while True:
                fields = await client._connection.event(sooner(self._silence, left(deadline)))
                if fields is None:
                    if deadline is not None and time.monotonic() >= deadline:
                        return None
                    await client.ping()
                elif fields.get("sub") == self._number:
                    event = _events.read(fields)
                    if isinstance(event, Reset):
                        # What follows may belong to another history.
                        self.epoch = fields.get("epoch", self.epoch)
                    if event is not None:
                        return event
        except Error as error:
            await self._lose(error)
            raise Disconnected(f"the connection was lost: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            wrong = ProtocolError(f"an event that makes no sense: {error!r}")
            await self._lose(wrong)
            raise Disconnected("the connection was lost") from wrong

    async def close(self) -> None:
        """Ends it, and wakes whoever waits for it."""
        with self._lock:
            self._closing.notify()
            connection = self._connection
        if connection is not None:
            connection.close()

    async def _subscribe(self, initial: bool, since: Optional[Position]) -> None:
        client = await Client._dial(self._world, self._options, self._made)
        try:
            place = None if since is None else (since.rev, since.epoch)
            request = _wire.subscribe(self._pattern, self._exact, initial, self._cuts, place)
            answer = await client._ask(request)
            self._number, self.epoch, self.rev = answer["id"], answer["epoch"], answer["rev"]
        except KeyError as error:
            await client.close()
            raise ProtocolError(f"an answer without {error}") from None
        except Unanswered as error:
            await client.close()
            raise ConnectError(f"the subscription was not answered: {error}") from error
        except BaseException:
            await client.close()
            raise
        self._client = client
        self.error = None
        self._since = time.monotonic()

    def _made(self, connection: Connection) -> None:
        with self._lock:
            if self.is_closed:
                raise Disconnected("it was closed")
            self._connection = connection

    async def _lose(self, error: Error) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        self.error = error
        now = time.monotonic()
        self._not_before = now + self._backoff.pause_after(now - self._since)


class Subscription:
    """The events of a pattern, over lost connections and restarts of the daemon.

    An iterator that waits until there is an event. It raises what does not go away by itself, such as a
    refused token, and may be asked again afterwards; it ends when it is closed. It is for one who takes; any
    may close it.

    Nothing is told twice, and what was overwritten while nobody looked is told once, with the newest value.
    Every subscriber has to be ready for `Reset` at any time.
    """

    def __init__(
        self,
        world: World,
        options: Options,
        pattern: str,
        exact: bool,
        initial: bool,
        cuts: bool,
        since: Optional[Position],
    ) -> None:
        """Made by `Link.subscribe`."""
        self._feed = Feed(world, options, pattern, exact, cuts)
        self._patience = options.patience
        self._initial = initial
        self._has_begun = False
        self._position = since
        self._ready: Deque[Event] = deque()
        # What has been told since the beginning or the last reset, until the sync, and in which history;
        # by this connection, and by those before.
        self._told: Dict[str, int] = {}
        self._told_before: Dict[str, int] = {}
        self._told_before_epoch = ""

    @property
    def position(self) -> Optional[Position]:
        """Where another subscription to the same pattern may go on: up to there all has been taken.

        `None` while the current entries have not all been.
        """
        return self._position

    async def begin(self) -> None:
        """Subscribes, if it has not. It waits for a connection as long as the link's patience lasts."""
        await self._begin(None)

    async def _begin(self, deadline: Optional[float]) -> bool:
        """As `begin`, but `False` where it has not been possible until then, or it was closed."""
        if self._has_begun:
            return True
        patience = time.monotonic() + self._patience
        is_sooner = deadline is not None and deadline < patience
        until = deadline if is_sooner else patience
        if await self._feed.open(until, self._initial, self._position):
            self._has_begun = True
            if not self._initial and self._position is None:
                self._position = Position(self._feed.rev, self._feed.epoch)
            return True
        if is_sooner or self._feed.is_closed:
            return False
        if self._feed.error is not None:
            raise again(self._feed.error)
        raise ConnectError("cannot connect in time")

    async def next(self, timeout: Optional[float] = None) -> Optional[Event]:
        """The next event; `None` where there is none in time, or it was closed."""
        deadline = after(timeout)
        if not await self._begin(deadline):
            return None
        while not self._feed.is_closed:
            if self._ready:
                return self._handed_out(self._ready.popleft())
            if not self._feed.is_live:
                # A daemon that was here before says `changes_only` by the position.
                if not await self._feed.open(deadline, True, self._position):
                    return None
            try:
                event = await self._feed.event(deadline)
            except Disconnected:
                self._lose()
                continue
            if event is None:
                return None
            self._receive(event)
        return None

    async def close(self) -> None:
        """Ends it: its iterator comes to its end, at once if it is waiting."""
        await self._feed.close()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        event = await self.next()
        if event is None:
            raise StopAsyncIteration
        return event

    async def __aenter__(self) -> Subscription:
        await self.begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _handed_out(self, event: Event) -> Event:
        if isinstance(event, Reset):
            self._position = None
        elif isinstance(event, Sync) or self._position is not None:
            self._position = Position(event.rev, self._feed.epoch)
        return event

    def _receive(self, event: Event) -> None:
        """Decides what of an event is to be told."""
        if self._position is None:
            if isinstance(event, Put):
                before = self._told_before.pop(event.key, None)
                self._told[event.key] = event.rev
                if before == event.rev and self._told_before_epoch == self._feed.epoch:
                    return
            elif isinstance(event, Delete):
                self._told.pop(event.key, None)
                self._told_before.pop(event.key, None)
        if isinstance(event, (Sync, Reset)):
            gone = self._told_before if isinstance(event, Sync) else {}
            self._ready.extend(Delete(key, event.rev) for key in gone)
            self._told, self._told_before = {}, {}
        self._ready.append(event)

    def _lose(self) -> None:
        """Takes leave of a connection."""
        if self._position is not None:
            return
        if self._told_before_epoch != self._feed.epoch:
            # Revisions of another history say nothing.
            self._told_before = dict.fromkeys(self._told_before, 0)
        self._told_before.update(self._told)
        self._told_before_epoch = self._feed.epoch
        self._told = {}
