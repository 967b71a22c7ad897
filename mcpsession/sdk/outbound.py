"""Frames on their way to one socket, and the right to write them."""

from __future__ import annotations

from collections import deque

import anyio
from starlette.types import Receive, Send

from mcpsession.sdk import wire
from mcpsession.sdk.parts import Parts
from mcpsession.settings import Settings

# A client that takes nothing for so long, while its queue stands full, does not read.
STUCK = 5.0


class Outbound:
    """A queue that is bounded in frames and bytes; one frame always fits an empty one."""

    def __init__(self, settings: Settings) -> None:
        self._most_frames = settings.outbound_frames
        self._most_bytes = settings.outbound_bytes
        self._frames: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._taken: anyio.Event | None = None
        """Where somebody waits."""
        self.is_open = True

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def is_full(self) -> bool:
        return len(self._frames) >= self._most_frames or self._bytes >= self._most_bytes

    def put(self, seq: int, frame: bytes) -> None:
        """Queue a frame; nothing once the queue is closed."""
        if self.is_open:
            self._frames.append((seq, frame))
            self._bytes += len(frame)

    def take(self, up_to: int | None = None) -> bytes:
        """The frames that may leave now: all, or those up to a number."""
        frames: list[bytes] = []
        while self._frames and (up_to is None or self._frames[0][0] <= up_to):
            frames.append(self._frames.popleft()[1])
            self._bytes -= len(frames[-1])
        if frames:
            self._tell()
        return b"".join(frames)

    def close(self) -> None:
        """Nothing leaves any more."""
        self.is_open = False
        self._frames.clear()
        self._bytes = 0
        self._tell()

    def _tell(self) -> None:
        if self._taken is not None:
            self._taken.set()
            self._taken = None

    async def taken(self) -> bool:
        """Wait until something was taken; False if nothing was for as long as a client that reads would need."""
        # One event for all who wait: a second one would leave the first asleep.
        self._taken = taken = self._taken or anyio.Event()
        with anyio.move_on_after(STUCK) as waiting:
            await taken.wait()
        return not waiting.cancelled_caught


async def may_write(parts: Parts, send: Send) -> None:
    """Wait until this replica may write frames. Comments keep the connection open meanwhile, so it has begun."""
    while not parts.heartbeat.may_write():
        with anyio.move_on_after(parts.settings.keep_alive) as waiting:
            await parts.heartbeat.may_write_again()
        if waiting.cancelled_caught:
            await send({"type": "http.response.body", "body": wire.KEEP_ALIVE, "more_body": True})


async def gone(receive: Receive) -> None:
    """Return when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass
