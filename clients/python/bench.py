#!/usr/bin/env python3
"""The clients beside a Redis client in Python: how many a second, and how long one takes.

    python clients/python/bench.py [SECONDS]

It starts both daemons itself, on Unix sockets and keeping nothing on a disk. It needs the built nkv-server
(or NKV_SERVER), redis-server (apt-get install redis-server) and the package redis (pip install redis). Each
measurement is made in turns, SECONDS long in all (2 by default). What is shown is the median, which says
something on a busy machine too: in operations a second, the ratio of the two, and as time, with the 99th
percentile. A value is an object of 50 bytes, which both sides write and read as JSON. Nothing is asserted.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any, Awaitable, Callable, Dict, List

import nkv
import nkv.aio

try:
    import redis
    import redis.asyncio
except ImportError:
    raise SystemExit("the package redis is needed: pip install redis") from None

ROOT = pathlib.Path(__file__).resolve().parents[2]
VALUE = {"state": "heating", "target": 21.5, "since": 1715939000}
TOGETHER = 100
TURNS = 8


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    program = os.environ.get("NKV_SERVER") or str(ROOT / "target" / "release" / "nkv-server")
    with tempfile.TemporaryDirectory() as directory:
        ours, theirs = os.path.join(directory, "nkv.sock"), os.path.join(directory, "redis.sock")
        quiet: Dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        options = ["--port", "0", "--unixsocket", theirs, "--save", "", "--appendonly", "no"]
        redis_server = shutil.which("redis-server")
        if redis_server is None:
            raise SystemExit("redis-server is needed: apt-get install redis-server")
        daemons = [
            subprocess.Popen([program, "--in-memory", ours], **quiet),
            subprocess.Popen([redis_server, *options], **quiet),
        ]
        try:
            while not (os.path.exists(ours) and os.path.exists(theirs)):
                time.sleep(0.01)
            measure(ours, theirs, seconds)
        finally:
            for daemon in daemons:
                daemon.kill()
                daemon.wait()


def measure(ours: str, theirs: str, seconds: float) -> None:
    print(
        f"{'':24}{'nkv':>10} /s{'redis':>10} /s{'ratio':>8}{'nkv p50, p99':>19}{'redis p50, p99':>19}"
    )
    link, peer = nkv.Link(ours), redis.Redis(unix_socket_path=theirs)
    show("put", seconds, lambda: link.put("a.b", VALUE), lambda: peer.set("a.b", json.dumps(VALUE)))
    show("get", seconds, lambda: link.get("a.b"), lambda: json.loads(peer.get("a.b")))

    def batch() -> None:
        batch = nkv.Batch()
        for number in range(TOGETHER):
            batch.put(f"n.{number}", VALUE)
        link.batch(batch)

    def pipeline() -> None:
        with peer.pipeline() as pipe:
            for number in range(TOGETHER):
                pipe.set(f"n.{number}", json.dumps(VALUE))
            pipe.execute()

    show(f"put {TOGETHER} as one", seconds, batch, pipeline, TOGETHER)

    def keys_of_pipeline() -> List[Any]:
        names = [f"n.{number}" for number in range(TOGETHER)]
        return [json.loads(value) for value in peer.mget(names)]

    show(f"read {TOGETHER} as one", seconds, lambda: link.list("n.*"), keys_of_pipeline, TOGETHER)
    events = link.subscribe("told", changes_only=True)
    events.begin()
    events.next()
    channel = peer.pubsub(ignore_subscribe_messages=True)
    channel.subscribe("told")
    while channel.get_message(timeout=1) is not None:
        pass

    def tell() -> None:
        link.put("told", VALUE)
        events.next()

    def publish() -> None:
        peer.publish("told", json.dumps(VALUE))
        message = None
        while message is None:
            message = channel.get_message(timeout=1)
        json.loads(message["data"])

    show("put and be told", seconds, tell, publish)
    link.close()
    asyncio.run(measure_asyncio(ours, theirs, seconds))


async def measure_asyncio(ours: str, theirs: str, seconds: float) -> None:
    peer = redis.asyncio.Redis(unix_socket_path=theirs, max_connections=TOGETHER)
    async with nkv.aio.Link(ours) as link:

        async def set_together() -> None:
            await asyncio.gather(*(peer.set("a.b", json.dumps(VALUE)) for _ in range(TOGETHER)))

        async def put_together() -> None:
            await asyncio.gather(*(link.put("a.b", VALUE) for _ in range(TOGETHER)))

        await show_async(
            "asyncio: put",
            seconds,
            lambda: link.put("a.b", VALUE),
            lambda: peer.set("a.b", json.dumps(VALUE)),
        )

        async def get() -> None:
            json.loads(await peer.get("a.b"))

        await show_async("asyncio: get", seconds, lambda: link.get("a.b"), get)
        await show_async(
            f"asyncio: {TOGETHER} tasks", seconds, put_together, set_together, TOGETHER
        )
    await peer.aclose()


def timed(seconds: float, call: Callable[[], Any]) -> List[float]:
    took, clock = [], time.perf_counter
    gc.collect()
    start = now = clock()
    while now - start < seconds:
        call()
        before, now = now, clock()
        took.append(now - before)
    return took


async def timed_async(seconds: float, call: Callable[[], Awaitable[Any]]) -> List[float]:
    took, clock = [], time.perf_counter
    gc.collect()
    start = now = clock()
    while now - start < seconds:
        await call()
        before, now = now, clock()
        took.append(now - before)
    return took


def show(name: str, seconds: float, ours: Any, theirs: Any, together: int = 1) -> None:
    took: List[List[float]] = [[], []]
    for turn in range(TURNS):
        took[turn % 2] += timed(seconds / TURNS, (ours, theirs)[turn % 2])
    table(name, took, together)


async def show_async(name: str, seconds: float, ours: Any, theirs: Any, together: int = 1) -> None:
    took: List[List[float]] = [[], []]
    for turn in range(TURNS):
        took[turn % 2] += await timed_async(seconds / TURNS, (ours, theirs)[turn % 2])
    table(name, took, together)


def table(name: str, took: List[List[float]], together: int) -> None:
    medians, times = [], []
    for side in took:
        side.sort()
        medians.append(side[len(side) // 2])
        times.append(f"{medians[-1] * 1e6:8.0f},{side[len(side) * 99 // 100] * 1e6:6.0f} µs")
    ours, theirs = (together / median for median in medians)
    print(f"{name:24}{ours:13,.0f}{theirs:13,.0f}{ours / theirs:8.2f}{times[0]:>19}{times[1]:>19}")


if __name__ == "__main__":
    main()
