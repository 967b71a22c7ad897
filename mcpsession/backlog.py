"""News that waits for one subscriber, with a gap in the place of what was dropped."""

from __future__ import annotations

import time
from collections import deque

import anyio

from mcpsession.model import Gap, News

# News that was announced and does not come keeps its place so long.
_LONGEST_KEPT = 10.0


class Backlog:
    """In the order in which it came. Between two gaps there is always news, so it is bounded if the news in it is."""

    def __init__(self) -> None:
        self._items: deque[News | None] = deque()
        self.held = 0
        """News, without gaps."""

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, news: News) -> None:
        self._items.append(news)
        self.held += 1

    def take(self) -> News | None:
        """The first; None: from here on nobody knows what was missed."""
        item = self._items.popleft()
        if item is not None and not isinstance(item, Gap):
            self.held -= 1
        return item

    def clear(self) -> None:
        self._items.clear()
        self.held = 0

    def lose(self) -> None:
        """Nobody knows what was missed after the last."""
        while self._items and (self._items[-1] is None or isinstance(self._items[-1], Gap)):
            self._items.pop()
        self._items.append(None)

    def drop_newest(self) -> bool:
        """Something was dropped after the last; True if that begins a new gap."""
        last = self._items[-1] if self._items else News("")
        if last is None:
            # That says it already.
            return False
        if isinstance(last, Gap):
            self._items[-1] = Gap(missed=last.missed + 1)
            return False
        self._items.append(Gap(missed=1))
        return True

    def drop_oldest(self) -> bool:
        """Drop the first news there is; True if that begins a new gap."""
        missed, lost, begins = 1, False, True
        while (item := self._items.popleft()) is None or isinstance(item, Gap):
            begins = False
            lost = lost or item is None
            missed += 0 if item is None else item.missed
        self.held -= 1
        if self._items and self._items[0] is None:
            # Whatever was missed before it, is missed with it.
            return False
        if self._items and isinstance(self._items[0], Gap):
            missed += self._items.popleft().missed  # type: ignore[union-attr]
        self._items.appendleft(None if lost else Gap(missed=missed))
        return begins


class Places:
    """Places in a backlog that publishers have found and whose news has not come yet; and who waits for one."""

    def __init__(self) -> None:
        self._kept: deque[float] = deque()
        self._freed: anyio.Event | None = None

    def __len__(self) -> int:
        forgotten = time.monotonic() - _LONGEST_KEPT
        while self._kept and self._kept[0] < forgotten:
            self._kept.popleft()
        return len(self._kept)

    def keep(self) -> None:
        self._kept.append(time.monotonic())

    def come(self) -> None:
        """The news of one has come, if it was announced."""
        if self._kept:
            self._kept.popleft()

    def give_back(self) -> None:
        """The news of one does not come."""
        if self._kept:
            self._kept.pop()
        self.free()

    def clear(self) -> None:
        self._kept.clear()
        self.free()

    def free(self) -> None:
        """Let all look who wait."""
        if self._freed is not None:
            self._freed.set()
            self._freed = None

    async def freed(self) -> None:
        """Wait until it is worth a look."""
        if self._freed is None:
            self._freed = anyio.Event()
        await self._freed.wait()
