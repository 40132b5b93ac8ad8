"""What can go wrong, as classes that answer the caller's question: may I ask again?

==================== ================================== ==========================================
class                what became of the request         ask again?
==================== ================================== ==========================================
`AddressError`       not sent: the text is no address   no
`BadValue`           not sent: it has no JSON form      no
`ConnectError`       not sent                           yes; a link has, while its patience lasted
`Disconnected`       not sent                           yes; a link has, while its patience lasted
`ServerError`        refused, nothing was changed       by the class: `Conflict` after reading
                                                        again, `ReadOnly` and `LimitReached` later
`Unanswered`         nobody here can know: it may have  what may be done twice
                     been carried out, or be yet
`ProtocolError`      the peer is no nkv daemon          no
==================== ================================== ==========================================

All of them are `Error`. Values never stand in a message.
"""

from __future__ import annotations

import copy
from typing import Any, Dict, Optional, Type, TypeVar

E = TypeVar("E", bound="Error")


class Error(Exception):
    """Whatever this package raises."""


class AddressError(Error, ValueError):
    """The text is no address."""


class BadValue(Error, ValueError):
    """The value has no JSON form. Nothing was sent."""


class ConnectError(Error, ConnectionError):
    """Nobody could be reached, or not in time. Nothing was sent."""


class Disconnected(Error, ConnectionError):
    """The connection has ended. The request was not sent."""


class Unanswered(Error):
    """The request was sent, and its answer never came. **It may have been carried out or not.**

    It is never repeated by itself unless that does no harm. The cause tells why no answer came.
    """


class Timeout(Unanswered, TimeoutError):
    """The request was sent, and no answer came in time. It may have been carried out, or be yet."""


class NotInTime(Error, TimeoutError):
    """What was waited for has not come about in time."""


class ProtocolError(Error):
    """The peer does not keep to the protocol. The connection has been closed."""


class ServerError(Error):
    """The daemon refused, and changed nothing. An unknown code is this class itself."""

    code: str
    """The protocol's code, such as `conflict`."""
    rev: Optional[int]
    """The key's revision, with a `Conflict` of `if_rev`: 0 where there is no such key."""
    at: Optional[int]
    """Which operation of a batch was refused, counted from 0."""

    def __init__(
        self,
        message: str,
        code: str = "",
        rev: Optional[int] = None,
        at: Optional[int] = None,
    ) -> None:
        self.code = code or getattr(type(self), "code", "")
        self.rev = rev
        self.at = at
        super().__init__(message)

    def __str__(self) -> str:
        return f"{self.code}: {self.args[0]}"


class BadRequest(ServerError):
    """Malformed, or fields that don't go together."""

    code = "bad_request"


class BadKey(ServerError):
    """No key or pattern, a pattern where a key is needed, or a key of the daemon's own."""

    code = "bad_key"


class NotFound(ServerError):
    """There is no such thing. `get` returns `None` instead."""

    code = "not_found"


class Conflict(ServerError):
    """`if_rev` did not hold."""

    code = "conflict"


class TooLarge(ServerError):
    """The request is over the message limit, or the key over 512 bytes."""

    code = "too_large"


class LimitReached(ServerError):
    """A quota is used up: clients, keys, bytes."""

    code = "limit"


class Denied(ServerError):
    """This peer may not do that to this key."""

    code = "denied"


class Unauthenticated(ServerError):
    """The daemon has a token, and this TCP peer has not shown it."""

    code = "unauthenticated"


class ReadOnly(ServerError):
    """Storage has failed, and this can't be kept now."""

    code = "read_only"


class Internal(ServerError):
    """A fault of the daemon's own."""

    code = "internal"


def _of_code() -> Dict[str, Type[ServerError]]:
    return {kind.code: kind for kind in ServerError.__subclasses__()}


_KINDS = _of_code()


def refusal(fields: Dict[str, Any]) -> ServerError:
    """The error that a response tells."""
    code = str(fields.get("error", ""))
    kind = _KINDS.get(code, ServerError)
    return kind(str(fields.get("message", "refused")), code, fields.get("rev"), fields.get("at"))


def again(error: E) -> E:
    """The same error for somebody else. A traceback belongs to whom it has happened to."""
    fresh = copy.copy(error)
    fresh.__cause__ = error.__cause__
    return fresh
