"""Runs one replica: `python -m examples.replica MODULE:FACTORY --port N`.

FACTORY returns an ASGI app. A replica that is told its parent's id ends with that parent, however the parent ends.
"""

import argparse
import ctypes
import os
import resource
import signal
import sys

import uvicorn

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve one app on one port until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m examples.replica", description="Run one replica.")
    parser.add_argument("app", metavar="MODULE:FACTORY", help="the callable that returns the ASGI app")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--grace", type=int, default=5, help="seconds that open requests get at SIGTERM (default 5)")
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
        access_log=False,
        log_level="warning",
        # Longer than any client keeps an idle connection: a request must not meet a connection that is just closing.
        timeout_keep_alive=60,
        timeout_graceful_shutdown=arguments.grace,
    )


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent` ends; exit at once if it has ended already.

    Linux only, elsewhere nothing happens. The kernel watches the thread that started this process, so that must be one
    which lives as long as the parent does: its main thread.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # The parent may have died before the request was made: then no signal will ever come.
    if os.getppid() != parent:
        sys.exit(f"the parent {parent} is gone")


def raise_file_limit() -> None:
    """Allow this process as many open files as the system grants without asking: each stream is one or two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard and sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()
