"""A parent to be ended: runs a cluster, prints the ids of its processes and waits."""

import sys

import anyio

from examples.cluster import run_cluster


async def main(app: str, database_url: str) -> None:
    async with run_cluster(app, replicas=2, database_url=database_url) as cluster:
        sys.stdout.write(" ".join(str(process.pid) for process in (cluster.front, *cluster.replicas)))
        sys.stdout.flush()
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2])
