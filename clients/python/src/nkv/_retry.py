"""What may be asked again, and when: decided without a connection.

What surely changed nothing is asked again, and whatever only reads. What was sent and not answered may
have been carried out. It is sent again only where that does no harm (`_wire.Retry`), and from then on every
failure to find out leaves its fate unknown: what is reported is the answer that was lost.
"""

from __future__ import annotations

import random
from typing import Optional, Tuple

from ._wire import Retry
from .errors import ConnectError, Disconnected, Error, LimitReached, ProtocolError, Timeout
from .errors import Unanswered


def is_unsent(error: Error) -> bool:
    """Whether the request has surely not been carried out and may be asked again."""
    return isinstance(error, (ConnectError, Disconnected))


def is_passing(error: Error) -> bool:
    """Whether another attempt to connect may succeed."""
    return isinstance(error, (ConnectError, Disconnected, Unanswered, ProtocolError, LimitReached))


class Attempts:
    """A request on its way through one connection after the other."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._lost: Optional[Unanswered] = None
        self._epoch = ""

    def begin(self, epoch: str) -> None:
        """Asked before each attempt. Raises what became of the request, where it may not be sent."""
        if self._lost and self._retry is Retry.SAME_HISTORY and self._epoch != epoch:
            # Revisions of another history say nothing about this request.
            raise self._lost

    def failed(self, error: Error, epoch: str, is_in_time: bool) -> None:
        """Returns where there is to be another attempt, else raises what became of the request."""
        is_lost = isinstance(error, Unanswered) and not isinstance(error, Timeout)
        may_repeat = is_lost and self._retry is not Retry.NEVER
        if is_in_time and (is_unsent(error) or may_repeat):
            if is_lost and self._lost is None:
                assert isinstance(error, Unanswered)
                self._lost, self._epoch = error, epoch
            return
        raise self.fate(error)

    def fate(self, error: Error) -> Error:
        """What a failure says about the request: nothing, where an answer was lost before."""
        if self._lost is None or error is self._lost or self._retry is Retry.READ:
            return error
        return self._lost


class Backoff:
    """Pauses that double up to a longest one, each cut short at random by up to a half.

    Without chance in it, all clients of a daemon that has gone would come back at the same moments.
    """

    def __init__(self, pauses: Tuple[float, float]) -> None:
        self._first = pauses[0]
        self._longest = max(pauses)
        self._next = self._first

    def pause(self) -> float:
        """How long to wait before the next attempt."""
        whole = self._next
        self._next = min(whole * 2, self._longest)
        return whole * random.uniform(0.5, 1)

    def pause_after(self, lasted: float) -> float:
        """How long to wait after a connection that has lasted so long: not at all where that was long."""
        if lasted < self._longest:
            return self.pause()
        self._next = self._first
        return 0.0
