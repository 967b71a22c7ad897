"""A parent to be ended: runs a cluster, prints the ids of its processes and waits."""

import signal
import sys

import anyio

from examples.cluster import run_cluster


async def main(app: str, database_url: str) -> None:
    async with run_cluster(app, replicas=2, database_url=database_url) as cluster:
        sys.stdout.write(" ".join(str(process.pid) for process in (cluster.front, *cluster.replicas)))
        sys.stdout.flush()
        await anyio.sleep_forever()


if __name__ == "__main__":
    # A shell that runs the tests in the background has them, and what they start, ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    anyio.run(main, sys.argv[1], sys.argv[2])
