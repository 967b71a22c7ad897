"""Measures tool calls on every side: as fast as they go, and at the same rate; the sides take turns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from benchmarks import peers
from benchmarks.database import Database
from benchmarks.load import Sample
from benchmarks.paced_report import Paced
from benchmarks.report import CallsResult, Result
from benchmarks.sides import Load, RunningSide, Runtime, Side, ceiling, fastmcp, mcp_persist, ours, running, stock

# The offered rates of the open loop, as shares of what stock reached in the closed one. Calls that come one by one cost
# it more than those it finds waiting, so the second may be more than it can do: the first is the one that is judged.
SHARES = (0.5, 0.85)
PACED_ROUNDS = 3

# Sessions of the open loop: one that is free for each call that is due, also while some wait for a slow answer.
PACED_SESSIONS = 128

# What serves HTTP, by the name of uvicorn's parser: as `pip install mcp` brings it, and as `uvicorn[standard]` does.
RUNTIMES = {"h11": Runtime("h11", "asyncio"), "httptools": Runtime("httptools", "uvloop")}


@dataclass(frozen=True)
class CallsLoad:
    """How long and how often."""

    load: Load
    rounds: int
    paced_seconds: float
    same: bool = False
    """The stock SDK against itself."""
    http: Sequence[str] = ("h11", "httptools")


async def measure_calls(database: Database, load: CallsLoad, say: Callable[[str], None]) -> CallsResult:
    """Measure all sides with each HTTP server in turn; without the peers' environment only ours and stock with h11."""
    environment = peers.environment()
    results = []
    if environment is None:
        left_out = dict.fromkeys([*peers.PEERS, "httptools"], "no .venv-peers: make bench makes it")
        runtimes = [RUNTIMES["h11"]]
    else:
        left_out = environment.missing
        runtimes = [replace(RUNTIMES[name], python=str(environment.python)) for name in load.http]
    for runtime in runtimes:
        present = [] if environment is None else [name for name in peers.PEERS if name not in environment.missing]
        sides = (
            [stock(runtime, key="ours", title="stock SDK again")] if load.same else _sides(database, runtime, present)
        )
        async with running([stock(runtime), *sides, ceiling()]) as servers:
            results.append(await _measure(servers, runtime, load, say))
    return CallsResult(results, left_out)


def _sides(database: Database, runtime: Runtime, present: Sequence[str]) -> list[Side]:
    sides = [ours(database, runtime), ours(database, runtime, durability="strict")]
    if "mcp-persist" in present:
        sides += [mcp_persist(database, runtime), mcp_persist(database, runtime, batched=True)]
    if "fastmcp" in present:
        sides.append(fastmcp(database, runtime))
    return sides


async def _measure(
    servers: Sequence[RunningSide], runtime: Runtime, load: CallsLoad, say: Callable[[str], None]
) -> Result:
    samples: dict[str, list[Sample]] = {server.side.key: [] for server in servers}
    for number in range(load.rounds):
        for server in in_turn(servers, number):
            say(f"{runtime.http}, round {number + 1} of {load.rounds}: {server.side.title}")
            samples[server.side.key].append(await server.run(load.load))
    titles = {server.side.key: server.side.title for server in servers}
    reached = median(sample.rate for sample in samples["stock"])
    paced = [await _paced(servers, runtime, load, share, share * reached, say) for share in SHARES]
    return Result(runtime.http, runtime.loop, titles, samples, load.load, paced)


async def _paced(
    servers: Sequence[RunningSide],
    runtime: Runtime,
    load: CallsLoad,
    share: float,
    rate: float,
    say: Callable[[str], None],
) -> Paced:
    rounds = min(load.rounds, PACED_ROUNDS)
    samples: dict[str, list[Sample]] = {"stock": [], "ours": []}
    pair = [server for server in servers if server.side.key in samples]
    for number in range(rounds):
        # The same times for both: what differs is only who answers.
        at_rate = replace(load.load, sessions=PACED_SESSIONS, seconds=load.paced_seconds, rate=rate, seed=number + 1)
        for server in in_turn(pair, number):
            say(f"{runtime.http}, {rate:,.0f} calls/s, round {number + 1} of {rounds}: {server.side.title}")
            samples[server.side.key].append(await server.run(at_rate))
    return Paced({server.side.key: server.side.title for server in pair}, samples, rate, PACED_SESSIONS, share)


def in_turn(servers: Sequence[RunningSide], number: int) -> Sequence[RunningSide]:
    """Turn the order round from one round to the next, so that a machine that gets slower is fair to all."""
    return servers if number % 2 == 0 else servers[::-1]
