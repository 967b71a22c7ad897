"""What can be seen of a private Postgres from outside: its port, its word that it is ready, its processes."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from pathlib import Path
from typing import Final

from mcpsession.postgres.embedded_launch import EmbeddedPostgresError

# The request every Postgres answers with one byte, before any authentication.
SSL_REQUEST: Final = struct.pack("!ii", 8, 80877103)


def free_port() -> int:
    """Return a port that is free now, below those that outgoing connections get.

    One of those would be taken while the server is stopped, by a client's own attempt to reconnect to it.
    """
    try:
        lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        lowest = 32768
    for _ in range(1000):
        port = random.randrange(10240, max(lowest, 20480))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise EmbeddedPostgresError("found no free port on 127.0.0.1 for the embedded Postgres")


def says_ready(file: Path, pid: int) -> bool:
    """Whether the postmaster `pid` has written that it accepts connections (as pg_ctl looks)."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return False
    return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() in ("ready", "standby")


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(SSL_REQUEST)
            return connection.recv(1) in (b"N", b"S")
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """Return the process ids of the children of `pid`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(entry.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.parent.name))
    return found
