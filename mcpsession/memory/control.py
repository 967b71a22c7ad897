"""The control log in memory: a list in order of the versions."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right

from mcpsession import news_contracts
from mcpsession.memory.rows import ControlRow
from mcpsession.memory.tables import Tables, check_texts
from mcpsession.model import ControlMessage, Mail, ReplicaId
from mcpsession.news_contracts import ControlPage, ControlPlace
from mcpsession.settings import Settings


class MemoryControl:
    """ControlRows over one list."""

    def __init__(self, tables: Tables, settings: Settings) -> None:
        self._tables = tables
        self._ttl = settings.control_ttl

    async def append(self, method: str, key: str, params: str, *, sender: ReplicaId) -> int:
        check_texts(method, key, params)
        with self._tables.lock:
            self._replace(method, key)
            self._tables.control_head += 1
            version = self._tables.control_head
            row = ControlRow(ControlMessage(version, method, key, params, sender), mark=str(time.time_ns()))
            self._tables.control.append(row)
            self._tables.control_newest[method, key] = row
            self._tables.post(Mail("control", sender, body=str(version)))
            return version

    async def read(self, place: ControlPlace, limit: int, *, newest: bool = False) -> ControlPage | None:
        with self._tables.lock:
            rows, head = self._tables.control, self._tables.control_head
            if place.version > head or not self._is_ours(place):
                return None
            found: list[ControlMessage] = []
            room = news_contracts.PAGE_BYTES
            for row in rows[bisect_right(rows, place.version, key=_version) :]:
                if len(found) == limit or room <= 0:
                    last = found[-1].version
                    return ControlPage(found, ControlPlace(last, self._mark(last)), more=True)
                if not newest or row.is_newest():
                    found.append(row.message)
                    room -= len(row.message.params)
            return ControlPage(found, ControlPlace(head, self._mark(head)), more=False)

    async def forget(self, method: str, key: str) -> bool:
        with self._tables.lock:
            return self._replace(method, key)

    def _replace(self, method: str, key: str) -> bool:
        row = self._tables.control_newest.pop((method, key), None)
        if row is None:
            return False
        row.expires_at = time.monotonic() + self._ttl
        return True

    def _is_ours(self, place: ControlPlace) -> bool:
        mark = self._mark(place.version)
        return not mark or not place.mark or mark == place.mark

    def _mark(self, version: int) -> str:
        rows = self._tables.control
        place = bisect_left(rows, version, key=_version)
        return rows[place].mark if place < len(rows) and rows[place].message.version == version else ""


def _version(row: ControlRow) -> int:
    return row.message.version
