"""`python -m examples.demo` plays the story; `python -m examples.demo serve` keeps the replicas up."""

import argparse
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from examples.cluster import Cluster, ProcessFailedError, run_cluster
from examples.demo.screen import Screen
from examples.demo.story import STORY, endpoint, play
from mcpsession import MCPSessionError

APP = "examples.demo.server:app"

# The client waits as long as it is told to before it resumes; the demo's audience need not.
ENV = {"MCPSESSION_NAMESPACE": "demo", "MCPSESSION_RETRY_MS": "200"}

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def story(screen: Screen, url: str | None) -> int:
    """Play all steps, up to the first that fails; return the exit code."""
    screen.title()
    began = time.monotonic()
    async with cluster(screen, url) as up:
        started_in, began = time.monotonic() - began, time.monotonic()
        done = 0
        try:
            for number, (title, step) in enumerate(STORY, 1):
                with screen.step(number, title) as say:
                    await play(step, up, say)
                done = number
        except Exception as error:  # the boundary: whatever a step fails with is shown
            screen.failure(error, up.replicas)
        seconds = time.monotonic() - began
    screen.verdict(done, len(STORY), seconds, started_in=started_in)
    return 0 if done == len(STORY) else 1


async def serve(screen: Screen, url: str | None) -> int:
    """Keep everything up until this is cancelled."""
    screen.title()
    async with cluster(screen, url) as up:
        screen.serving(endpoint(up))
        await anyio.sleep_forever()
    return 0


@asynccontextmanager
async def cluster(screen: Screen, url: str | None) -> AsyncIterator[Cluster]:
    """Three replicas, their front and their database, and the screen's word on them."""
    async with AsyncExitStack() as stack:
        with screen.waiting("starting three replicas, a front" + ("" if url else " and a private Postgres")):
            up = await stack.enter_async_context(run_cluster(APP, database_url=url, env=ENV))
        screen.cluster(up)
        yield up


async def until_signal(job: Callable[[Screen, str | None], Awaitable[int]], screen: Screen, url: str | None) -> int:
    """Run `job`; a signal cancels it, so that it cleans up. Returns its exit code, or the shell's for that signal."""
    code = 1
    with anyio.open_signal_receiver(*SIGNALS) as signals:
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                nonlocal code
                async for number in signals:
                    code = 128 + number
                    tasks.cancel_scope.cancel()
                    return

            tasks.start_soon(watch)
            try:
                code = await job(screen, url)
            except (ProcessFailedError, MCPSessionError) as error:
                screen.broken(error)
            except SystemExit:
                # What rich makes of a reader that has gone (`make demo | head`): nobody is left to be told anything.
                pass
            tasks.cancel_scope.cancel()
    return code


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description="Three replicas and one story.")
    parser.add_argument("what", nargs="?", choices=("story", "serve"), default="story", help="default: story")
    parser.add_argument("--url", help="a migrated Postgres to use instead of a private one")
    arguments = parser.parse_args()
    screen = Screen()
    serving = arguments.what == "serve"
    code = anyio.run(until_signal, serve if serving else story, screen, arguments.url)
    if code > 128:
        screen.ended()
    # To serve until one is told to stop is to succeed.
    sys.exit(0 if serving and code > 128 else code)


if __name__ == "__main__":
    main()
