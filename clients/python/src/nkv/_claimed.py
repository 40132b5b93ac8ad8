"""What becomes of a claim that outlives its connection: decided without one.

A claim ends with its connection, and is made again on the next one. Its revision and epoch tell whether it was
free in between: after a restart of the daemon they are the same, for the daemon has kept the claim; where the
daemon has let it go they are others, and somebody else may have had it meanwhile. Then it is lost, as it is
where somebody else has it still. What is lost stays lost: whoever wants to go on claims anew, and knows that
nothing is as it was.
"""

from __future__ import annotations

from typing import Optional, Tuple, Union

from .errors import ServerError

_PREFIX = "$claims."
"""What stands before a claimed key in the daemon's own entry for the claim."""


class Grant:
    """What the daemon has said to a claim."""

    def __init__(self) -> None:
        self._granted: Optional[Tuple[int, str]] = None
        self.is_lost = False
        self.refusal: Optional[ServerError] = None
        """Why the daemon has not given it back, where it was lost that way."""

    @property
    def rev(self) -> int:
        """The revision at which it was granted; 0 before that."""
        return self._granted[0] if self._granted else 0

    def settle(self, outcome: Union[int, ServerError], epoch: str) -> None:
        """Takes down a revision or a refusal, in the history of this name."""
        if self.is_lost:
            return
        if isinstance(outcome, ServerError):
            self.is_lost, self.refusal = True, outcome
        elif self._granted is None:
            self._granted = (outcome, epoch)
        else:
            self.is_lost = self._granted != (outcome, epoch)


def claims_about(key: str) -> str:
    """The entry that stands for all claims which can be in the way of one.

    Those of the keys above it and below it lie below this one too.
    """
    return _PREFIX + key.partition(".")[0]


def is_in_the_way(entry: str, key: str) -> bool:
    """Whether the end of this entry may make it possible to claim that key."""
    if not entry.startswith(_PREFIX):
        return False
    claimed, key = entry[len(_PREFIX) :] + ".", key + "."
    return claimed.startswith(key) or key.startswith(claimed)
