"""A program's own copy of a part of the keyspace: `Follower` moves when asked, `Mirror` by itself.

**A slow handler** delays its own mirror and nothing else. What happens meanwhile is not queued for it: when
it comes back it is told what is different then (see `_feed.py`).

**After a lost connection** it goes on at its last cut. Where the daemon can't tell any more what has changed,
all entries come again and are compared with the copy (`_replica.py`). Until then the copy stays as it was.
"""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from typing import Any, Callable, Generic, Optional, TypeVar

from ._client import Options
from ._feed import Feed
from ._replica import Created, Cut, Deleted, Gatherer, Invalid, Modified, Replica, View
from ._world import World, after, left
from .errors import Disconnected, Error, NotInTime, again

T = TypeVar("T")

_log = logging.getLogger("nkv")
_REFUSED_SECONDS = 1.0


class Follower(Generic[T]):
    """A mirror that moves when it is asked for the next cut.

    As an iterator it waits until there is one, and connects again by itself. It raises what does not go away
    by itself, such as a refused token, and may be asked again afterwards. It is for one who takes; any
    may look at the copy, or close it.
    """

    def __init__(
        self,
        world: World,
        options: Options,
        pattern: str,
        exact: bool,
        parse: Callable[[Any], T],
    ) -> None:
        """Made by `Link.follow`."""
        self._world = world
        self._feed = Feed(world, options, pattern, exact, cuts=True)
        self._replica = Replica(parse)
        self._gatherer = Gatherer(None)

    def view(self) -> View[T]:
        """One state of the copy, to be read as a whole."""
        return self._replica.view()

    def get(self, key: str) -> Optional[T]:
        """The value of a key; `None` where there is none, or it does not parse."""
        return self._replica.get(key)

    @property
    def is_connected(self) -> bool:
        """Whether it hears the daemon. Where it does not, the copy stays as it was."""
        return self._feed.is_live

    @property
    def error(self) -> Optional[Error]:
        """Why it has no connection, where it has none and has tried."""
        return self._feed.error

    async def next(self, timeout: Optional[float] = None) -> Optional[Cut[T]]:
        """Waits for the next consistent state and moves the copy there.

        `None` where there is none in time, or it was closed.
        """
        deadline = after(timeout)
        while not self._feed.is_closed:
            if not self._feed.is_live:
                since = self._replica.position
                if not await self._feed.open(deadline, True, since):
                    return None
                self._gatherer = Gatherer(since)
            try:
                event = await self._feed.event(deadline)
            except Disconnected:
                continue
            if event is None:
                return None
            told = self._gatherer.push(event, self._feed.epoch)
            if told is not None:
                return self._replica.apply(told)
        return None

    async def close(self) -> None:
        """Ends it. The copy stays as it is."""
        await self._feed.close()

    def __aiter__(self) -> Follower[T]:
        return self

    async def __anext__(self) -> Cut[T]:
        cut = await self.next()
        if cut is None:
            raise StopAsyncIteration
        return cut

    async def __aenter__(self) -> Follower[T]:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@dataclass(frozen=True)
class Handlers:
    """Whom a mirror tells."""

    created: Optional[Callable[..., Any]]
    modified: Optional[Callable[..., Any]]
    deleted: Optional[Callable[..., Any]]
    invalid: Optional[Callable[..., Any]]
    synced: Optional[Callable[[], Any]]
    cut: Optional[Callable[..., Any]]

    async def tell(self, cut: Cut[Any]) -> None:
        """Calls them for a cut: for each change, then for the whole of it."""
        for change in cut.changes:
            if isinstance(change, Created):
                await _call(self.created, change.key, change.value)
            elif isinstance(change, Modified):
                await _call(self.modified, change.key, change.value, change.old)
            elif isinstance(change, Deleted):
                await _call(self.deleted, change.key, change.old)
            elif isinstance(change, Invalid):
                await _call(self.invalid, change.key, change.error)
        await _call(self.cut, cut)
        if cut.is_caught_up:
            await _call(self.synced)


class Mirror(Generic[T]):
    """A copy of a part of the keyspace that keeps itself up to date. To look at it asks nobody.

    The copy goes from one state that the keyspace was in to the next. Who reads several keys that belong
    together takes one `view` of them. A handler that raises is logged, and the mirror goes on.
    """

    def __init__(self, follower: Follower[T], handlers: Handlers) -> None:
        """Made by `Link.mirror`."""
        self._follower = follower
        self._handlers = handlers
        self._moved = follower._world.signal()
        self._task = follower._world.spawn("nkv-mirror", self._keep())

    def view(self) -> View[T]:
        """One state of the copy, to be read as a whole."""
        return self._follower.view()

    def get(self, key: str) -> Optional[T]:
        """The value of a key; `None` where there is none, or it does not parse."""
        return self._follower.get(key)

    def __contains__(self, key: str) -> bool:
        return key in self.view()

    def __getitem__(self, key: str) -> T:
        return self.view()[key]

    def __len__(self) -> int:
        return len(self.view())

    @property
    def is_connected(self) -> bool:
        """Whether it hears the daemon. Where it does not, the copy stays as it was."""
        return self._follower.is_connected

    @property
    def error(self) -> Optional[Error]:
        """Why it has no connection, where it has none and has tried."""
        return self._follower.error

    async def wait_until_synced(self, timeout: float) -> None:
        """Waits until the copy is whole for the first time.

        Raises `NotInTime`, or why there was no connection.
        """
        await self.wait_until(lambda view: True, timeout)

    async def wait_until(self, is_so: Callable[[View[T]], bool], timeout: float) -> View[T]:
        """Waits until the copy is whole and the function finds in it what it looks for.

        Raises as `wait_until_synced`.
        """
        deadline = after(timeout)
        while True:
            seen = self._moved.count
            view = self.view()
            if view.rev is not None and is_so(view):
                return view
            wait = left(deadline)
            if not wait or self._follower._feed.is_closed:
                if self.error is not None:
                    raise again(self.error)
                raise NotInTime("the mirror did not come to that in time")
            await self._moved.wait(seen, wait)

    async def close(self) -> None:
        """Ends it, and waits for a handler that is running. The copy stays as it is."""
        await self._follower.close()
        self._moved.notify()
        await self._task.join()

    async def __aenter__(self) -> Mirror[T]:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _keep(self) -> None:
        feed = self._follower._feed
        while not feed.is_closed:
            try:
                cut = await self._follower.next()
            except Error as error:
                _log.warning("a mirror is refused: %s", error)
                await feed._closing.wait(0, _REFUSED_SECONDS)
                continue
            if cut is not None:
                self._moved.notify()
                await self._handlers.tell(cut)


async def _call(handler: Optional[Callable[..., Any]], *arguments: Any) -> None:
    if handler is None:
        return
    try:
        done = handler(*arguments)
        if inspect.isawaitable(done):
            await done
    except Exception:
        _log.exception("a handler of a mirror failed")
