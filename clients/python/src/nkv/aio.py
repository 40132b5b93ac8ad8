"""The client for asyncio: the same as in `nkv`, to be awaited.

>>> import asyncio, nkv.aio
>>> async def main():
...     async with nkv.aio.Link() as link:
...         await link.put("net.eth0.mtu", 1500)
...         return await link.get("net.eth0.mtu")

Everything is to be used in the loop in which it was made. Calls that are awaited together are under way
together, over one connection. One that is cancelled gives up its answer only: a request that was sent may
be carried out all the same. Handlers of mirrors may be coroutine functions.
"""

from __future__ import annotations

from ._client import Batch, Client
from ._feed import Subscription
from ._link import Announcement, Claim, Link
from ._mirror import Follower, Mirror

__all__ = ["Announcement", "Batch", "Claim", "Client", "Follower", "Link", "Mirror", "Subscription"]
