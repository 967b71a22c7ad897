"""Runs the app of one side: `python -m benchmarks.serve MODULE:FACTORY --port N --http h11 --loop asyncio`.

In the interpreter of that side, with the same settings of uvicorn for all; nothing but the app, uvicorn and the
standard library is imported here.
"""

import argparse

import uvicorn

from examples.replica import end_with_parent, raise_file_limit


def main() -> None:
    """Serve one app on one port until a signal ends it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("app", metavar="MODULE:FACTORY", help="the callable that returns the ASGI app")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--http", choices=["h11", "httptools"], default="h11")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    parser.add_argument("--parent", type=int, help="process id to end with (Linux)")
    arguments = parser.parse_args()
    if arguments.parent is not None:
        end_with_parent(arguments.parent)
    raise_file_limit()
    uvicorn.run(
        arguments.app,
        factory=True,
        host="127.0.0.1",
        port=arguments.port,
        http=arguments.http,
        loop=arguments.loop,
        access_log=False,
        log_level="warning",
        # Longer than a side waits for its turn: a load must not meet a connection that is just closing.
        timeout_keep_alive=60,
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    main()
