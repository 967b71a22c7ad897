"""What so many sessions need, reckoned from what one of each costs: `python -m benchmarks.budget --sessions 1000000`.

Costs come from `docs/benchmarks/capacity.json`, or from a file of your own machine's (`--only capacity --json FILE`).
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEASURED = Path(__file__).parents[1] / "docs" / "benchmarks" / "capacity.json"

# The journal waits so long for more calls before it writes, and writes at most so many at once.
LINGER = 0.025
MOST_A_BATCH = 100
# An open stream counts as activity with each of its comments.
KEEP_ALIVE = 15.0
# And moves the session's expiry, which is indexed, at most so often.
TOUCH_STEP = 60.0
# Bytes of a replica's memory: docs/benchmarks/streams.json, and what a cached session may have at most.
PER_STREAM = 31_300
PER_CACHED = 2_000
MOST_CACHED = 100_000
# Dead rows between two vacuums; pages that the log has whole, once after each checkpoint.
ALLOWANCE = 2.0


@dataclass(frozen=True)
class Load:
    """What is to be carried."""

    sessions: int
    calls: float
    """Of a session, in a minute."""
    streams: float
    """The share of sessions that hold a standalone stream open."""
    life: float
    """Hours of a session."""
    replicas: int
    pool_size: int = 5
    stream_ttl: float = 600.0
    touch_flush: float = 5.0
    cache_ttl: float = 60.0


@dataclass(frozen=True)
class Need:
    """What it takes: of all replicas together where nothing else is said, a second, and in bytes."""

    calls: float
    calls_a_batch: float
    touches: float
    reads: float
    born: float
    streams: float
    disk: float
    log: float
    cores: float
    connections: int
    cached: float
    """Sessions in the memory of each replica."""
    memory: float
    """Of each replica, for these and for its streams."""


def reckon(load: Load, measured: Mapping[str, Any]) -> Need:
    """The arithmetic; docs/scaling.md goes through it."""
    costs = {cost["what"]: cost for cost in measured["costs"]}
    rooms = {room["what"]: room["each"] for room in measured["rooms"]}
    calls = load.sessions * load.calls / 60
    a_batch = min(max(1.0, calls / load.replicas * LINGER), MOST_A_BATCH)
    at_once = min(
        (int(what.split()[3]) for what in costs if what.startswith("a short call")), key=lambda n: abs(n - a_batch)
    )
    open_streams = load.sessions * load.streams
    touches = min(calls, load.sessions / load.touch_flush) + open_streams / KEEP_ALIVE
    moves = min(touches, load.sessions / TOUCH_STEP)
    # In one replica a session's calls come at random; the first loads it, those of the next cache_ttl find it.
    reads = calls / (1 + load.calls / 60 / load.replicas * load.cache_ttl)
    born = load.sessions / (load.life * 3600)
    happens = {
        "a session made": born,
        "a session reaped": born,
        "a touch": touches - moves,
        "a touch that moves the expiry": moves,
        "a session read (cache miss)": reads,
        f"a short call, {at_once} a batch": calls,
        "a finished call reaped": calls,
    }
    finished = calls * load.stream_ttl
    cached = min(MOST_CACHED, load.sessions, reads / load.replicas * load.cache_ttl)
    return Need(
        calls=calls,
        calls_a_batch=a_batch,
        touches=touches,
        reads=reads,
        born=born,
        streams=load.sessions + finished,
        disk=ALLOWANCE
        * (load.sessions * rooms["a live session"] + finished * rooms[f"a finished call, {at_once} a batch"]),
        log=ALLOWANCE * sum(often * costs[what]["wal_bytes"] for what, often in happens.items()),
        cores=sum(often * (costs[what]["cpu"] or 0.0) for what, often in happens.items()),
        connections=load.replicas * (load.pool_size + 4),
        cached=cached,
        memory=cached * PER_CACHED + open_streams / load.replicas * PER_STREAM,
    )


def told(load: Load, need: Need) -> str:
    """The needs as lines of text."""
    rows = [
        ("calls a second", f"{need.calls:,.0f}", f"{load.calls:g} a minute of each session"),
        ("of these in one write", f"{need.calls_a_batch:.0f}", f"of each of {load.replicas} replicas, in {LINGER} s"),
        ("touches a second", f"{need.touches:,.0f}", f"and {load.streams:.0%} of sessions with an open stream"),
        ("sessions read a second", f"{need.reads:,.0f}", f"not in the cache, cache_ttl {load.cache_ttl:g} s"),
        ("sessions made a second", f"{need.born:,.0f}", f"each lives {load.life:g} h; as many are reaped"),
        ("rows of streams", f"{need.streams / 1e6:,.1f} M", f"one a session, finished calls for {load.stream_ttl:g} s"),
        ("disk", f"{need.disk / 2**30:,.1f} GiB", f"with an allowance of {ALLOWANCE:g} for dead rows"),
        ("write-ahead log", f"{need.log / 2**20:,.1f} MiB/s", f"with an allowance of {ALLOWANCE:g} for full pages"),
        ("Postgres", f"{need.cores:,.1f} cores", "busy all the time"),
        ("connections", f"{need.connections}", f"{load.pool_size} + 4 of each replica"),
        ("sessions cached", f"{need.cached:,.0f}", "in each replica"),
        ("memory for these", f"{need.memory / 2**20:,.0f} MiB", "in each replica, with its share of the open streams"),
    ]
    return "\n".join(f"{what:24}{value:>12}   {why}" for what, value, why in rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget", description=__doc__)
    parser.add_argument("--sessions", type=int, default=1_000_000, help="that live at once")
    parser.add_argument("--calls", type=float, default=0.1, help="of a session, in a minute")
    parser.add_argument("--streams", type=float, default=0.0, help="the share of sessions that hold a stream open")
    parser.add_argument("--life", type=float, default=1.0, help="of a session, in hours")
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--pool-size", type=int, default=5)
    parser.add_argument("--stream-ttl", type=float, default=600.0)
    parser.add_argument("--touch-flush", type=float, default=5.0)
    parser.add_argument("--cache-ttl", type=float, default=60.0)
    parser.add_argument("--costs", type=Path, default=MEASURED, help="what --only capacity wrote")
    options = vars(parser.parse_args(arguments))
    measured = json.loads(options.pop("costs").read_text())["capacity"]
    load = Load(**options)
    sys.stdout.write(told(load, reckon(load, measured)) + "\n")


if __name__ == "__main__":
    main()
