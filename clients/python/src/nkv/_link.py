"""A connection that comes back: requests find one that works, and presence is kept up.

**What is asked again** stands in `_retry.py`. Each call has so much patience, in which it tries again.

**Who connects.** Whoever needs a connection and finds none makes it, one at a time; the others wait for the
outcome. Where entries are announced or keys claimed, a keeper waits for the end of the connection, so that
they come back while nobody asks anything. Without them there is none.

Subscriptions and mirrors have connections of their own (`_feed.py`), so that each is as slow as it likes.
"""

from __future__ import annotations

import threading
import time
import weakref
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Set, Tuple, Type, TypeVar, Union

from . import _wire
from ._claimed import Grant, claims_about, is_in_the_way
from ._client import Client, Commands, Options
from ._events import Delete, Position, Reset
from ._feed import Subscription, silence_of
from ._loop import Loop
from ._mirror import Follower, Handlers, Mirror
from ._retry import Attempts, Backoff, is_passing
from ._values import Written
from ._wire import Request
from ._world import Connection, Task, World, after, left, sooner
from .errors import Conflict, ConnectError, Disconnected, Error, ServerError, Unanswered, again

T = TypeVar("T")
D = TypeVar("D")
L = TypeVar("L", bound="Link")

_KEEPER_SECONDS = 1.0
"""How long the keeper waits where it is refused."""


_WAITING_PAUSES = (0.1, 5.0)
"""Between attempts to claim what somebody else has, where nothing tells that it is free."""


@dataclass(frozen=True)
class Standing:
    """What is asked for on each new connection, and how it is taken back."""

    request: Request[Any]
    undo: Request[Any]
    grant: Optional[Grant] = None
    """What has become of it, where it is a claim."""

    @property
    def is_lost(self) -> bool:
        """Whether it is asked for no more."""
        return self.grant is not None and self.grant.is_lost


class Link(Commands):
    """A daemon that is reached whenever it can be.

    Nothing is connected before something is asked. Each call waits for a connection and tries again what
    may be tried again for as long as its ``patience`` lasts. What was sent and not answered is repeated only
    where that does no harm: what reads, ``put`` with ``if_changed``, and with ``if_rev`` in the same history.
    All else is reported as `Unanswered`.
    """

    _world: World = Loop()
    _client_type: Type[Client] = Client

    def __init__(
        self,
        address: Optional[str] = None,
        *,
        name: Optional[str] = None,
        token: Optional[str] = None,
        connect_timeout: float = 10.0,
        reply_timeout: float = 60.0,
        patience: float = 30.0,
        pauses: Tuple[float, float] = (0.02, 2.0),
    ) -> None:
        """A link to an address (a path or ``HOST:PORT``), else to where `nkv-client` goes.

        Times are seconds. ``pauses`` are the first and the longest between attempts to connect; they
        double, and are cut short at random.
        """
        self._options = Options.of(
            address, name, token, connect_timeout, reply_timeout, patience, pauses
        )
        self._patience = patience
        self._lock = threading.Lock()
        # Notified when a connection is made or given up, and when the link is closed.
        self._changed = self._world.signal()
        self._client: Optional[Client] = None
        self._connection: Optional[Connection] = None
        self._is_connecting = False
        self._is_closed = False
        self._since = 0.0
        self._backoff = Backoff(pauses)
        self._not_before = 0.0
        self._error: Optional[Error] = None
        self._standing: Dict[int, Standing] = {}
        self._next_number = 0
        self._is_refused = False
        self._keeper: Optional[Task] = None
        self._dependents: weakref.WeakSet[Any] = weakref.WeakSet()

    @property
    def address(self) -> str:
        """The daemon's address."""
        return str(self._options.address)

    async def client(self) -> Client:
        """A connection that was not known to be lost a moment ago, for what needs one of its own."""
        return await self._connected(time.monotonic() + self._patience)

    async def announce(self, key: str, value: Any) -> Announcement:
        """Puts a ``session`` entry and keeps it there: it is put again on each new connection.

        Until what this returns is closed. While there is no connection the entry is gone; over a restart
        of the daemon it stays for 10 s, which a link uses to come back.
        """
        standing = Standing(_session_put(key, value), _wire.delete(key))
        return Announcement(self, await self._stand(standing), key)

    async def claim(self, key: str) -> Claim:
        """Takes a key and all that lies below it for this link: nobody else can write there.

        Until what this returns is closed, or lost (see `Claim`). Raises `Conflict` where somebody else has
        claimed it, or something above or below it.
        """
        standing = Standing(_wire.claim(key), _wire.release(key), Grant())
        return Claim(self, await self._stand(standing), key, standing)

    async def claim_when_free(self, key: str, timeout: Optional[float] = None) -> Claim:
        """As `claim`, but where somebody else is in the way it waits until the key is free.

        For so many seconds, or for ever; then it raises `Conflict`. Of several that wait one gets it.
        """
        deadline = after(timeout)
        backoff = Backoff(_WAITING_PAUSES)
        news: Optional[Subscription] = None
        try:
            while True:
                try:
                    return await self.claim(key)
                except Conflict:
                    if deadline is not None and time.monotonic() >= deadline:
                        raise
                pause = time.monotonic() + backoff.pause()
                until = pause if deadline is None else min(pause, deadline)
                try:
                    if news is None:
                        # What has become free before is found by looking once more.
                        news = self.subscribe(claims_about(key), changes_only=True)
                        await news.begin()
                    else:
                        await _end_in_the_way(news, key, until)
                except ServerError:
                    # The rules may hide who claims what.
                    await self._sleep(until)
        finally:
            if news is not None:
                await news.close()

    def subscribe(
        self,
        pattern: str,
        *,
        exact: bool = False,
        changes_only: bool = False,
        cuts: bool = False,
        since: Optional[Position] = None,
    ) -> Subscription:
        """The events of a key or pattern and all that lies below, over lost connections and restarts.

        First come the current entries, then `Sync`, then changes. It begins with the ``with`` block, or when
        the first event is asked for, and is to be closed.

        ``exact``: not what lies below the pattern's keys. ``changes_only``: not the current entries.
        ``cuts``: a `Sync` whenever all is told; between two of them lie whole batches. ``since``: from where
        another subscription stood.
        """
        subscription = Subscription(
            self._world, self._options, pattern, exact, not changes_only, cuts, since
        )
        return self._depend(subscription)

    def follow(
        self,
        pattern: str,
        *,
        exact: bool = False,
        parse: Callable[[Any], T] = lambda value: value,
    ) -> Follower[T]:
        """A mirror that moves when it is asked to: an iterator over consistent states and their changes."""
        return self._depend(Follower(self._world, self._options, pattern, exact, parse))

    def mirror(
        self,
        pattern: str,
        *,
        exact: bool = False,
        parse: Callable[[Any], T] = lambda value: value,
        on_created: Optional[Callable[[str, T], Any]] = None,
        on_modified: Optional[Callable[[str, T, Optional[T]], Any]] = None,
        on_deleted: Optional[Callable[[str, Optional[T]], Any]] = None,
        on_invalid: Optional[Callable[[str, Exception], Any]] = None,
        on_synced: Optional[Callable[[], Any]] = None,
        on_cut: Optional[Callable[..., Any]] = None,
    ) -> Mirror[T]:
        """A copy of a key or pattern and all that lies below, which a task keeps up to date.

        ``parse`` makes what the copy holds of each value, and raises where it can't. The handlers, functions
        or coroutine functions, are called after the copy has moved: ``on_created(key, value)``,
        ``on_modified(key, value, old)``, ``on_deleted(key, old)``, ``on_invalid(key, error)`` for each
        change; then ``on_cut(cut)`` for each consistent state, and ``on_synced()`` whenever the copy has
        caught up on a new connection.
        """
        handlers = Handlers(on_created, on_modified, on_deleted, on_invalid, on_synced, on_cut)
        # If the link is closed meanwhile, so is the follower, and the mirror comes to its end.
        return self._depend(Mirror(self.follow(pattern, exact=exact, parse=parse), handlers))

    def _depend(self, dependent: D) -> D:
        """Notes what ends with the link."""
        with self._lock:
            if self._is_closed:
                raise Disconnected("the link is closed")
            self._dependents.add(dependent)
        return dependent

    async def close(self) -> None:
        """Ends the connection, and all that was made with the link."""
        with self._lock:
            self._is_closed = True
            self._client = None
            connection, keeper = self._connection, self._keeper
            dependents = list(self._dependents)
        if connection is not None:
            connection.close()
        self._changed.notify()
        for dependent in dependents:
            await dependent.close()
        if keeper is not None:
            await keeper.join()

    async def __aenter__(self: L) -> L:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, request: Request[T]) -> T:
        deadline = time.monotonic() + self._patience
        attempts = Attempts(request.retry)
        while True:
            try:
                client = await self._connected(deadline)
            except Error as error:
                fate = attempts.fate(error)
                if fate is error:
                    raise
                raise fate from fate.__cause__
            attempts.begin(client.epoch)
            try:
                return await client._ask(request)
            except Error as error:
                attempts.failed(error, client.epoch, time.monotonic() < deadline)

    async def _stand(self, standing: Standing) -> int:
        """Asks for something on this connection and on each that comes after it."""
        # A connection that is made from here on asks for it by itself.
        await self.client()
        with self._lock:
            number = self._next_number
            self._next_number += 1
            self._standing[number] = standing
        try:
            await self._ask_standing(number)
        except BaseException:
            await self._withdraw(number)
            raise
        with self._lock:
            if self._keeper is None:
                self._keeper = self._world.spawn("nkv-link", self._keep())
        return number

    async def _withdraw(self, number: int) -> None:
        """Takes back what was asked for, where nobody else asks for the same."""
        with self._lock:
            standing = self._standing.pop(number, None)
            others = self._kept()
            client = self._client
        self._changed.notify()
        if standing is None or (standing.grant is not None and standing.grant.refusal is not None):
            return
        if client is not None and standing.undo.body not in others:
            # Without a connection the daemon lets it go by itself.
            await _try(client, standing.undo)

    def _kept(self) -> Set[str]:
        """How that would be taken back which is not to be. Called under the lock."""
        return {other.undo.body for other in self._standing.values() if not other.is_lost}

    async def _sleep(self, until: float) -> None:
        """Waits until then, or until the link is closed."""
        while not self._is_closed:
            wait = until - time.monotonic()
            if wait <= 0:
                return
            await self._changed.wait(self._changed.count, wait)

    async def _ask_standing(self, number: int) -> None:
        # To ask for it twice does no harm: it is this link's alone.
        deadline = time.monotonic() + self._patience
        attempts = Attempts(_wire.Retry.READ)
        while True:
            client = await self._connected(deadline)
            try:
                if await self._ask_newest(client, number):
                    return
            except Error as error:
                attempts.failed(error, client.epoch, time.monotonic() < deadline)

    async def _connected(self, deadline: float) -> Client:
        """The connection that there is, or a new one, waited for until then."""
        while True:
            with self._lock:
                if self._is_closed:
                    raise Disconnected("the link is closed")
                client = self._client
                if client is not None:
                    if not client.is_closed():
                        return client
                    client._connection.discard()
                    self._client = None
                    self._error = None
                    pause = self._backoff.pause_after(time.monotonic() - self._since)
                    self._not_before = time.monotonic() + pause
                seen = self._changed.count
                now = time.monotonic()
                pause = max(0.0, self._not_before - now)
                is_mine = not self._is_connecting and pause == 0
                if is_mine:
                    self._is_connecting = True
                is_waiting_for_others = self._is_connecting
            if is_mine:
                await self._connect()
                continue
            if now >= deadline:
                if self._error is not None:
                    raise again(self._error)
                raise ConnectError(f"cannot connect to {self.address} in time")
            wait = deadline - now
            await self._changed.wait(seen, wait if is_waiting_for_others else min(wait, pause))

    async def _connect(self) -> None:
        """Makes a connection on which all stands that is to. Raises what does not go away by itself."""
        client = None
        try:
            client = await self._client_type._dial(self._world, self._options, self._made)
            with self._lock:
                before = dict(self._standing)
            # Claims first: the entries may lie in what is claimed.
            numbers = sorted(before, key=lambda number: before[number].grant is None)
            is_refused = await self._ask_all(client, numbers)
            with self._lock:
                if self._is_closed:
                    raise Disconnected("the link is closed")
                self._client, client = client, None
                self._is_refused = is_refused
                self._since = time.monotonic()
                made = self._client
                kept = self._kept()
                gone = [before[number] for number in numbers if number not in self._standing]
        except Error as error:
            if isinstance(error, Unanswered):
                # That was no request of the caller's.
                error = ConnectError(f"cannot come back to {self.address}: {error}")
            with self._lock:
                self._error = error
                self._not_before = time.monotonic() + self._backoff.pause()
            if not is_passing(error):
                raise error
            return
        finally:
            if client is not None:
                await client.close()
            with self._lock:
                self._is_connecting = False
            self._changed.notify()
        for standing in gone:
            if standing.undo.body not in kept:
                await _try(made, standing.undo)

    def _made(self, connection: Connection) -> None:
        with self._lock:
            if self._is_closed:
                raise Disconnected("the link is closed")
            self._connection = connection

    async def _ask_all(self, client: Client, numbers: List[int]) -> bool:
        """Asks for all that is to stand, and tells whether something was refused, which is no reason to
        be without a connection."""
        is_refused = False
        for number in numbers:
            try:
                await self._ask_newest(client, number)
            except ServerError:
                is_refused = True
        return is_refused

    async def _ask_newest(self, client: Client, number: int) -> bool:
        """Asks until it was what is to stand, for somebody may change that meanwhile.

        Tells whether the answer counts: another connection may know better by now what became of a claim.
        """
        asked = None
        while True:
            with self._lock:
                standing = self._standing.get(number)
            if standing is None or standing.request is asked:
                return True
            if standing.is_lost:
                if standing.grant is not None and standing.grant.refusal is not None:
                    raise again(standing.grant.refusal)
                return True
            asked = standing.request
            refusal: Optional[ServerError] = None
            try:
                outcome = await client._ask(asked)
            except ServerError as error:
                outcome = refusal = error
            if standing.grant is not None and not self._settle(client, standing.grant, outcome):
                return False
            if refusal is not None:
                raise refusal

    def _settle(self, client: Client, grant: Grant, outcome: Union[int, ServerError]) -> bool:
        """Takes down what came of a claim, on the newest connection that there has been."""
        with self._lock:
            if client._connection is not self._connection:
                return False
            grant.settle(outcome, client.epoch)
        self._changed.notify()
        return True

    async def _keep(self) -> None:
        """Makes the connection anew whenever it is lost, until the link is closed."""
        silence = silence_of(self._options)
        while not self._is_closed:
            try:
                client = await self._connected(time.monotonic() + _KEEPER_SECONDS)
            except Error as error:
                if not is_passing(error):
                    # A daemon that won't have this client may be another one later.
                    await self._changed.wait(self._changed.count, _KEEPER_SECONDS)
                continue
            again = _KEEPER_SECONDS if self._is_refused else None
            if await client._connection.ended(sooner(silence, again)):
                continue
            try:
                if again is None:
                    await client.ping()
                else:
                    with self._lock:
                        # What is claimed is claimed, and claims that were refused are lost.
                        announced = [
                            number
                            for number, standing in self._standing.items()
                            if standing.grant is None
                        ]
                    self._is_refused = await self._ask_all(client, announced)
            except Error:
                await client.close()


class Announcement:
    """A ``session`` entry that is there as long as this and the link have a connection."""

    def __init__(self, link: Link, number: int, key: str) -> None:
        """Made by `Link.announce`."""
        self._link = link
        self._number = number
        self.key = key
        """The key."""

    async def set(self, value: Any) -> None:
        """Gives the entry another value, now and on each new connection.

        Also where this fails for want of a connection, the next one gets the value.
        """
        standing = Standing(_session_put(self.key, value), _wire.delete(self.key))
        with self._link._lock:
            if self._number in self._link._standing:
                self._link._standing[self._number] = standing
        await self._link._ask_standing(self._number)

    async def close(self) -> None:
        """Takes the entry back."""
        await self._link._withdraw(self._number)

    async def __aenter__(self) -> Announcement:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Claim:
    """A key that is claimed, with all below it, as long as this and the link have a connection.

    On each new connection the link claims again, before anything else is done there. Over a restart of the
    daemon the claim stays for 10 s, which a link uses to come back: it is the same claim then, and nobody
    else had it in between. After a connection that was lost for another reason, or for longer, it has been
    free. Then it is lost, whether somebody else has it or the link was quicker: somebody else may have
    written there. What is lost stays so: to go on, make another one.
    """

    def __init__(self, link: Link, number: int, key: str, standing: Standing) -> None:
        """Made by `Link.claim`."""
        assert standing.grant is not None
        self._link = link
        self._number = number
        self._grant = standing.grant
        self.key = key
        """The key."""

    @property
    def rev(self) -> int:
        """The revision of the claim.

        In one history it grows from claim to claim of the key, whoever makes them, so it tells of two who have
        done something in the name of the claim who is the later.
        """
        return self._grant.rev

    @property
    def is_held(self) -> bool:
        """Whether the link has the claim now, and nobody else has had it since this was made.

        As far as can be known: it is not while there is no connection.
        """
        client = self._link._client
        return not self._is_lost() and client is not None and not client.is_closed()

    @property
    def refusal(self) -> Optional[ServerError]:
        """Why the daemon has not given it back, where it was lost that way."""
        return self._grant.refusal

    async def wait_until_lost(self, timeout: Optional[float] = None) -> bool:
        """Waits until somebody else has the claim, or may have had it, since this was made.

        For so many seconds, or for ever, and tells whether it is so. It is so as well when this or the link
        is closed. While there is no connection it waits for the next.
        """
        deadline = after(timeout)
        while True:
            seen = self._link._changed.count
            if self._is_lost():
                return True
            wait = left(deadline)
            if wait == 0:
                return False
            await self._link._changed.wait(seen, wait)

    def _is_lost(self) -> bool:
        link = self._link
        return self._grant.is_lost or self._number not in link._standing or link._is_closed

    async def close(self) -> None:
        """Lets go of it."""
        await self._link._withdraw(self._number)

    async def __aenter__(self) -> Claim:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _session_put(key: str, value: Any) -> Request[Written]:
    # Where the very entry is there still, after a restart, nobody is told of a change that is none.
    return _wire.put(key, value, if_changed=True, lifetime="session")


async def _end_in_the_way(news: Subscription, key: str, until: float) -> None:
    """Waits until something is released that may be in the way, but no longer than this."""
    while True:
        event = await news.next(left(until))
        if event is None or isinstance(event, Reset):
            return
        if isinstance(event, Delete) and is_in_the_way(event.key, key):
            return


async def _try(client: Client, request: Request[Any]) -> None:
    try:
        await client._ask(request)
    except Error:
        pass
