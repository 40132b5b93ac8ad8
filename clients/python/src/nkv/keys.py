"""Keys of segments with any text, and what patterns match.

A key is segments joined by dots. What a segment can't hold (dots, stars, percent signs, white space,
control characters, a dollar sign at the front) is written as ``%XX``, which is an agreement among
clients: to the daemon it is text like any other.
"""

from __future__ import annotations

import re
from typing import List

_SPECIAL = re.compile(r"[.*%\s\x00-\x1f\x7f-\x9f]|\A\$")
_ESCAPES = re.compile(rb"%([0-9A-Fa-f]{2})")


def key(*segments: str) -> str:
    """A key of these segments, each of any text but the empty one.

    >>> key("hosts", "edge-7.example.org", "up")
    'hosts.edge-7%2Eexample%2Eorg.up'
    """
    if not all(segments) or not segments:
        raise ValueError("a segment of a key is not empty")
    return ".".join(map(escape, segments))


def segments(key: str) -> List[str]:
    """The texts of a key's segments, escapes undone.

    >>> segments("hosts.edge-7%2Eexample%2Eorg.up")
    ['hosts', 'edge-7.example.org', 'up']
    """
    return [unescape(segment) for segment in key.split(".")]


def escape(text: str) -> str:
    """Makes a text fit to be one segment of a key.

    >>> escape("$5 *")
    '%245%20%2A'
    """
    return _SPECIAL.sub(_escaped, text)


def unescape(segment: str) -> str:
    """Undoes `escape`. Text that is no escape stays, and so does one whose bytes are not UTF-8.

    >>> unescape("%245%20%2A 50%")
    '$5 * 50%'
    """
    if "%" not in segment:
        return segment
    plain = _ESCAPES.sub(lambda hit: bytes([int(hit.group(1), 16)]), segment.encode())
    try:
        return plain.decode()
    except UnicodeDecodeError:
        return segment


def matches(pattern: str, key: str) -> bool:
    """Whether a key is one of a pattern's: ``*`` stands for one segment, at the end for a subtree.

    >>> matches("net.*.mtu", "net.eth0.mtu"), matches("net.*", "net"), matches("*", "$x")
    (True, True, False)
    """
    wanted, found = pattern.split("."), key.split(".")
    if wanted[0] == "*" and key.startswith("$"):
        return False
    is_subtree = wanted[-1] == "*"
    if is_subtree:
        wanted.pop()
    if len(found) < len(wanted) or (len(found) > len(wanted) and not is_subtree):
        return False
    return all(ours in ("*", theirs) for ours, theirs in zip(wanted, found))


def _escaped(hit: "re.Match[str]") -> str:
    return "".join(f"%{byte:02X}" for byte in hit.group().encode())
