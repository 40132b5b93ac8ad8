"""A client of nkv, the daemon that keeps a keyspace and tells what changes.

>>> import nkv
>>> link = nkv.Link()                      # $NKV_ADDRESS, else the usual places
>>> link.put("net.eth0.mtu", 1500).rev     # doctest: +SKIP
1

`Link` reaches the daemon whenever it can be reached, `Mirror` is a copy of a part of the keyspace that keeps
itself up to date, `Subscription` tells the events themselves, and `Client` is one connection. The same for
asyncio stands in `nkv.aio`, and what can go wrong in `nkv.errors`.
"""

from __future__ import annotations

from . import errors, keys
from ._blocking import Announcement, Claim, Client, Follower, Link, Mirror, Subscription
from ._client import Batch
from ._events import Delete, Event, Position, Put, Reset, Sync
from ._replica import Change, Created, Cut, Deleted, Held, Invalid, Modified, View
from ._values import Entry, Json, Written
from .errors import (
    AddressError,
    BadKey,
    BadRequest,
    BadValue,
    Conflict,
    ConnectError,
    Denied,
    Disconnected,
    Error,
    Internal,
    LimitReached,
    NotFound,
    NotInTime,
    ProtocolError,
    ReadOnly,
    ServerError,
    Timeout,
    TooLarge,
    Unanswered,
    Unauthenticated,
)
from .keys import escape, key, matches, segments, unescape

__all__ = [
    "AddressError",
    "Announcement",
    "BadKey",
    "BadRequest",
    "BadValue",
    "Batch",
    "Change",
    "Claim",
    "Client",
    "Conflict",
    "ConnectError",
    "Created",
    "Cut",
    "Delete",
    "Deleted",
    "Denied",
    "Disconnected",
    "Entry",
    "Error",
    "Event",
    "Follower",
    "Held",
    "Internal",
    "Invalid",
    "Json",
    "LimitReached",
    "Link",
    "Mirror",
    "Modified",
    "NotFound",
    "NotInTime",
    "Position",
    "ProtocolError",
    "Put",
    "ReadOnly",
    "Reset",
    "ServerError",
    "Subscription",
    "Sync",
    "Timeout",
    "TooLarge",
    "Unanswered",
    "Unauthenticated",
    "View",
    "Written",
    "errors",
    "escape",
    "key",
    "keys",
    "matches",
    "segments",
    "unescape",
]
