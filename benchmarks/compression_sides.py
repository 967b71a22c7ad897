"""Ways to store a large message: Postgres compresses it as it likes, or the replica does before it is sent."""

import base64
import zlib
from collections.abc import Callable
from dataclasses import dataclass

# The journal writes on the event loop: the fastest level, or everybody waits.
LEVEL = 1


@dataclass(frozen=True)
class Side:
    """A table of events, and what a message is in it."""

    key: str
    title: str
    type: str
    alter: str
    """What is to be changed on the column `message` of a copy of the table."""
    pack: Callable[[str], object]
    unpack: Callable[[object], str]

    @property
    def table(self) -> str:
        return f"bench_compression.{self.key}"


def _as_bytes(message: str) -> bytes:
    return zlib.compress(message.encode(), LEVEL)


def _from_bytes(stored: object) -> str:
    assert isinstance(stored, bytes)
    return zlib.decompress(stored).decode()


def _as_text(message: str) -> str:
    return base64.b64encode(_as_bytes(message)).decode()


def _from_text(stored: object) -> str:
    return _from_bytes(base64.b64decode(str(stored)))


SIDES = (
    Side("pglz", "pglz, as now", "text", "SET COMPRESSION pglz", str, str),
    Side("lz4", "lz4", "text", "SET COMPRESSION lz4", str, str),
    Side("plain", "not compressed", "text", "SET STORAGE EXTERNAL", str, str),
    Side("zlib", "zlib, bytea", "bytea", "SET STORAGE EXTERNAL", _as_bytes, _from_bytes),
    Side("zlib_text", "zlib, base64", "text", "SET STORAGE EXTERNAL", _as_text, _from_text),
)
