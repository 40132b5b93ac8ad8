"""The client that blocks: the coroutines of the other one over blocking sockets, called to their ends.

What each call promises stands with its coroutine. Nothing is decided here.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Generic, Iterator, List, Optional, Tuple, Type, TypeVar

from . import _client, _feed, _link, _mirror
from ._client import Batch
from ._events import Event, Position
from ._replica import Cut, View
from ._threads import Threads, run
from ._values import Entry, Written
from ._world import World
from .errors import Error, ServerError

T = TypeVar("T")
C = TypeVar("C", bound="Client")
L = TypeVar("L", bound="Link")


class _Client(_client.Client):
    _world: World = Threads()


class _Link(_link.Link):
    _world: World = Threads()
    _client_type = _Client


class Commands:
    """What can be asked. `Client` asks once, `Link` as often as does no harm."""

    _within: _client.Commands

    def get(self, key: str) -> Optional[Entry]:
        """The entry of a key; `None` where there is no such key."""
        return run(self._within.get(key))

    def put(
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
        return run(
            self._within.put(
                key, value, if_rev=if_rev, if_changed=if_changed, lifetime=lifetime, ttl=ttl
            )
        )

    def delete(self, key: str, *, if_rev: Optional[int] = None) -> bool:
        """Deletes a key, and tells whether it was there."""
        return run(self._within.delete(key, if_rev=if_rev))

    def delete_matching(self, pattern: str) -> int:
        """Deletes all keys of a pattern, one after the other, and tells how many."""
        return run(self._within.delete_matching(pattern))

    def list(self, pattern: str = "*") -> List[Entry]:
        """The entries of a pattern, in the order of their keys. It is no snapshot; a mirror is."""
        return run(self._within.list(pattern))

    def keys(self, pattern: str = "*") -> List[str]:
        """The keys of a pattern, in order."""
        return run(self._within.keys(pattern))

    def batch(self, batch: Batch) -> int:
        """Carries out a batch, and gives the revision of its last change."""
        return run(self._within.batch(batch))

    def update(self, key: str, change: Callable[[Any], Any], *, default: Any = None) -> int:
        """Reads a key, makes a new value of its value, and puts that if nobody else was faster.

        Otherwise it begins again with what is there then. The function is given ``default`` where there
        is no such key, and returns `None` to leave the key as it is. The entry keeps its lifetime and what
        is left of its time to live. Gives the revision of what is there now, 0 for nothing.
        """
        return run(self._within.update(key, change, default=default))

    def stats(self) -> Dict[str, Any]:
        """The daemon's counters."""
        return run(self._within.stats())

    def clients(self) -> List[Dict[str, Any]]:
        """The daemon's connections, an object each."""
        return run(self._within.clients())

    def ping(self) -> None:
        """Returns when everything that was asked before has been carried out."""
        run(self._within.ping())


class Client(Commands):
    """One connection. It ends once, does not come back, and repeats nothing.

    For programs that run briefly, and where the connection itself counts: what it puts with the lifetime
    ``session`` goes with it. `Link` is for everything else. Threads may share it, and take turns.
    """

    _within: _client.Client

    def __init__(self, within: _client.Client) -> None:
        """Made by `connect`, or by `Link.client`."""
        self._within = within
        self.server = within.server
        """The daemon's name and version."""
        self.epoch = within.epoch
        """The history that revisions belong to."""
        self.initial_rev = within.initial_rev
        """The keyspace's revision when the connection was made."""
        self.limits = within.limits
        """The daemon's limits."""

    @classmethod
    def connect(
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
        made = _Client.connect(
            address,
            name=name,
            token=token,
            connect_timeout=connect_timeout,
            reply_timeout=reply_timeout,
        )
        return cls(run(made))

    def claim(self, key: str) -> int:
        """Takes a key and all that lies below it for this connection, and gives the claim's revision.

        Until it is released, or the connection ends, nobody else can put or delete anything there.
        Raises `Conflict` where somebody else has claimed it, or something above or below it.
        """
        return run(self._within.claim(key))

    def release(self, key: str) -> None:
        """Lets go of what was claimed. Raises `NotFound` where it was not."""
        run(self._within.release(key))

    def is_closed(self) -> bool:
        """Whether the connection is known to have ended."""
        return self._within.is_closed()

    def close(self) -> None:
        """Ends the connection."""
        run(self._within.close())

    def __enter__(self: C) -> C:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Link(Commands):
    """A daemon that is reached whenever it can be.

    Nothing is connected before something is asked. Each call waits for a connection and tries again what
    may be tried again for as long as its ``patience`` lasts. What was sent and not answered is repeated only
    where that does no harm: what reads, ``put`` with ``if_changed``, and with ``if_rev`` in the same history.
    All else is reported as `Unanswered`.

    Threads may share it; their calls take turns on one connection. Subscriptions and mirrors have their own.
    """

    _within: _link.Link

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
        self._within = _Link(
            address,
            name=name,
            token=token,
            connect_timeout=connect_timeout,
            reply_timeout=reply_timeout,
            patience=patience,
            pauses=pauses,
        )

    @property
    def address(self) -> str:
        """The daemon's address."""
        return self._within.address

    def client(self) -> Client:
        """A connection that was not known to be lost a moment ago, for what needs one of its own."""
        return Client(run(self._within.client()))

    def announce(self, key: str, value: Any) -> Announcement:
        """Puts a ``session`` entry and keeps it there: it is put again on each new connection.

        Until what this returns is closed. While there is no connection the entry is gone; over a restart
        of the daemon it stays for 10 s, which a link uses to come back.
        """
        return Announcement(run(self._within.announce(key, value)))

    def claim(self, key: str) -> Claim:
        """Takes a key and all that lies below it for this link: nobody else can write there.

        Until what this returns is closed, or lost (see `Claim`). Raises `Conflict` where somebody else has
        claimed it, or something above or below it.
        """
        return Claim(run(self._within.claim(key)))

    def claim_when_free(self, key: str, timeout: Optional[float] = None) -> Claim:
        """As `claim`, but where somebody else is in the way it waits until the key is free.

        For so many seconds, or for ever; then it raises `Conflict`. Of several that wait one gets it.
        """
        return Claim(run(self._within.claim_when_free(key, timeout)))

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
        return Subscription(
            self._within.subscribe(
                pattern, exact=exact, changes_only=changes_only, cuts=cuts, since=since
            )
        )

    def follow(
        self,
        pattern: str,
        *,
        exact: bool = False,
        parse: Callable[[Any], T] = lambda value: value,
    ) -> Follower[T]:
        """A mirror that moves when it is asked to: an iterator over consistent states and their changes."""
        return Follower(self._within.follow(pattern, exact=exact, parse=parse))

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
        on_cut: Optional[Callable[[Cut[T]], Any]] = None,
    ) -> Mirror[T]:
        """A copy of a key or pattern and all that lies below, which a thread keeps up to date.

        ``parse`` makes what the copy holds of each value, and raises where it can't. The handlers are called
        on the mirror's thread, after the copy has moved: ``on_created(key, value)``,
        ``on_modified(key, value, old)``, ``on_deleted(key, old)``, ``on_invalid(key, error)`` for each change;
        then ``on_cut(cut)`` for each consistent state, and ``on_synced()`` whenever the copy has caught up on a
        new connection.
        """
        return Mirror(
            self._within.mirror(
                pattern,
                exact=exact,
                parse=parse,
                on_created=on_created,
                on_modified=on_modified,
                on_deleted=on_deleted,
                on_invalid=on_invalid,
                on_synced=on_synced,
                on_cut=on_cut,
            )
        )

    def close(self) -> None:
        """Ends the connection, and all that was made with the link."""
        run(self._within.close())

    def __enter__(self: L) -> L:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Announcement:
    """A ``session`` entry that is there as long as this and the link have a connection."""

    def __init__(self, within: _link.Announcement) -> None:
        """Made by `Link.announce`."""
        self._within = within
        self.key = within.key
        """The key."""

    def set(self, value: Any) -> None:
        """Gives the entry another value, now and on each new connection.

        Also where this fails for want of a connection, the next one gets the value.
        """
        run(self._within.set(value))

    def close(self) -> None:
        """Takes the entry back."""
        run(self._within.close())

    def __enter__(self) -> Announcement:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Claim:
    """A key that is claimed, with all below it, as long as this and the link have a connection.

    On each new connection the link claims again, before anything else is done there. Over a restart of the
    daemon the claim stays for 10 s, which a link uses to come back: it is the same claim then, and nobody
    else had it in between. After a connection that was lost for another reason, or for longer, it has been
    free. Then it is lost, whether somebody else has it or the link was quicker: somebody else may have
    written there. What is lost stays so: to go on, make another one.
    """

    def __init__(self, within: _link.Claim) -> None:
        """Made by `Link.claim`."""
        self._within = within
        self.key = within.key
        """The key."""

    @property
    def rev(self) -> int:
        """The revision of the claim.

        In one history it grows from claim to claim of the key, whoever makes them, so it tells of two who have
        done something in the name of the claim who is the later.
        """
        return self._within.rev

    @property
    def is_held(self) -> bool:
        """Whether the link has the claim now, and nobody else has had it since this was made.

        As far as can be known: it is not while there is no connection.
        """
        return self._within.is_held

    @property
    def refusal(self) -> Optional[ServerError]:
        """Why the daemon has not given it back, where it was lost that way."""
        return self._within.refusal

    def wait_until_lost(self, timeout: Optional[float] = None) -> bool:
        """Waits until somebody else has the claim, or may have had it, since this was made.

        For so many seconds, or for ever, and tells whether it is so. It is so as well when this or the link
        is closed. While there is no connection it waits for the next.
        """
        return run(self._within.wait_until_lost(timeout))

    def close(self) -> None:
        """Lets go of it."""
        run(self._within.close())

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Subscription:
    """The events of a pattern, over lost connections and restarts of the daemon.

    An iterator that blocks until there is an event. It raises what does not go away by itself, such as a
    refused token, and may be asked again afterwards; it ends when it is closed. One thread takes; any may
    close it.

    Nothing is told twice, and what was overwritten while nobody looked is told once, with the newest value.
    Every subscriber has to be ready for `Reset` at any time.
    """

    def __init__(self, within: _feed.Subscription) -> None:
        """Made by `Link.subscribe`."""
        self._within = within

    @property
    def position(self) -> Optional[Position]:
        """Where another subscription to the same pattern may go on: up to there all has been taken.

        `None` while the current entries have not all been.
        """
        return self._within.position

    def begin(self) -> None:
        """Subscribes, if it has not. It waits for a connection as long as the link's patience lasts."""
        run(self._within.begin())

    def next(self, timeout: Optional[float] = None) -> Optional[Event]:
        """The next event; `None` where there is none in time, or it was closed."""
        return run(self._within.next(timeout))

    def close(self) -> None:
        """Ends it: its iterator comes to its end, at once if it is waiting."""
        run(self._within.close())

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        event = run(self._within.next())
        if event is None:
            raise StopIteration
        return event

    def __enter__(self) -> Subscription:
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Follower(Generic[T]):
    """A mirror that moves when it is asked for the next cut.

    As an iterator it blocks until there is one, and connects again by itself. It raises what does not go away
    by itself, such as a refused token, and may be asked again afterwards. One thread takes; any may look
    at the copy, or close it.
    """

    def __init__(self, within: _mirror.Follower[T]) -> None:
        """Made by `Link.follow`."""
        self._within = within

    def view(self) -> View[T]:
        """One state of the copy, to be read as a whole."""
        return self._within.view()

    def get(self, key: str) -> Optional[T]:
        """The value of a key; `None` where there is none, or it does not parse."""
        return self._within.get(key)

    @property
    def is_connected(self) -> bool:
        """Whether it hears the daemon. Where it does not, the copy stays as it was."""
        return self._within.is_connected

    @property
    def error(self) -> Optional[Error]:
        """Why it has no connection, where it has none and has tried."""
        return self._within.error

    def next(self, timeout: Optional[float] = None) -> Optional[Cut[T]]:
        """Waits for the next consistent state and moves the copy there.

        `None` where there is none in time, or it was closed.
        """
        return run(self._within.next(timeout))

    def close(self) -> None:
        """Ends it. The copy stays as it is."""
        run(self._within.close())

    def __iter__(self) -> Iterator[Cut[T]]:
        return self

    def __next__(self) -> Cut[T]:
        cut = run(self._within.next())
        if cut is None:
            raise StopIteration
        return cut

    def __enter__(self) -> Follower[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Mirror(Generic[T]):
    """A copy of a part of the keyspace that keeps itself up to date. To look at it asks nobody.

    The copy goes from one state that the keyspace was in to the next. Who reads several keys that belong
    together takes one `view` of them. A handler that raises is logged, and the mirror goes on.
    Any thread may look at it.
    """

    def __init__(self, within: _mirror.Mirror[T]) -> None:
        """Made by `Link.mirror`."""
        self._within = within

    def view(self) -> View[T]:
        """One state of the copy, to be read as a whole."""
        return self._within.view()

    def get(self, key: str) -> Optional[T]:
        """The value of a key; `None` where there is none, or it does not parse."""
        return self._within.get(key)

    def __contains__(self, key: str) -> bool:
        return key in self._within

    def __getitem__(self, key: str) -> T:
        return self._within[key]

    def __len__(self) -> int:
        return len(self._within)

    @property
    def is_connected(self) -> bool:
        """Whether it hears the daemon. Where it does not, the copy stays as it was."""
        return self._within.is_connected

    @property
    def error(self) -> Optional[Error]:
        """Why it has no connection, where it has none and has tried."""
        return self._within.error

    def wait_until_synced(self, timeout: float) -> None:
        """Waits until the copy is whole for the first time.

        Raises `NotInTime`, or why there was no connection.
        """
        run(self._within.wait_until_synced(timeout))

    def wait_until(self, is_so: Callable[[View[T]], bool], timeout: float) -> View[T]:
        """Waits until the copy is whole and the function finds in it what it looks for.

        Raises as `wait_until_synced`.
        """
        return run(self._within.wait_until(is_so, timeout))

    def close(self) -> None:
        """Ends it, and waits for a handler that is running. The copy stays as it is."""
        run(self._within.close())

    def __enter__(self) -> Mirror[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
