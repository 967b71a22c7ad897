"""What `layer.sessions` can tell: records, lists, counts. Looking touches nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mcpsession.model import SessionId
from mcpsession.records import Filter, Session, SessionStats
from mcpsession.session_contracts import Directory

_PAGE = 1000


class SessionQueries:
    """The part of `layer.sessions` that only reads. Sessions of another owner are as if they were not there."""

    def __init__(self, directory: Directory, *, owner: str | None) -> None:
        self._directory = directory
        self._owner = owner

    async def get(self, session_id: SessionId, *, include_dead: bool = False) -> Session | None:
        """The live session, whole, or None. Does not touch it.

        `include_dead`: also one that expired and was not reaped yet, or was terminated: see its `status`.
        """
        found = await self._directory.records([session_id], owner=self._owner, include_dead=include_dead)
        return found[0] if found else None

    async def get_many(self, session_ids: Iterable[SessionId]) -> Mapping[SessionId, Session]:
        """Those that live, by their ids; one statement."""
        ids = [*dict.fromkeys(several(session_ids))]
        found = await self._directory.records(ids, owner=self._owner) if ids else []
        by_id = {session.id: session for session in found}
        return {session_id: by_id[session_id] for session_id in ids if session_id in by_id}

    async def list(
        self, *, after: SessionId = "", limit: int = _PAGE, where: Filter | None = None, **wanted: Any
    ) -> Sequence[Session]:
        """A page of the live sessions, in the store's order of ids; the next one begins `after` the last id of this.

        `wanted`: the fields of `Filter` (owner, transport, initialized, protocol_version, idle_for), or the same as
        `where`. Sessions that are created or end between two pages may be missing; none comes twice.
        """
        if limit < 1:
            raise ValueError(f"limit={limit} is not allowed: at least 1")
        return await self._directory.page(self._filter(where, wanted), after, limit)

    async def each(
        self, predicate: Callable[[Session], bool] | None = None, *, where: Filter | None = None, **wanted: Any
    ) -> AsyncIterator[Session]:
        """Every live session that the filter and `predicate` let through, page by page."""
        wanted_ones, after = self._filter(where, wanted), ""
        while page := await self._directory.page(wanted_ones, after, _PAGE):
            for session in page:
                if predicate is None or predicate(session):
                    yield session
            if len(page) < _PAGE:
                return
            after = page[-1].id

    async def count(self, *, where: Filter | None = None, **wanted: Any) -> int:
        """How many live, by the same filter as `list`."""
        return await self._directory.count(self._filter(where, wanted))

    async def stats(self) -> SessionStats:
        """What the namespace holds, all owners together. Looks at every row: for people, not for requests.

        Raises ValueError for the sessions of one owner.
        """
        if self._owner is not None:
            raise ValueError("stats are of all owners' sessions; ask layer.sessions, or count()")
        return await self._directory.stats()

    def _filter(self, where: Filter | None, wanted: Mapping[str, Any]) -> Filter:
        chosen = Filter(**wanted) if where is None else replace(where, **wanted)
        if self._owner is not None and chosen.owner not in (None, self._owner):
            raise ValueError("these are the sessions of one owner; ask layer.sessions for another's")
        return chosen if self._owner is None else replace(chosen, owner=self._owner)


def several(session_ids: Iterable[SessionId]) -> Sequence[SessionId]:
    """Ids as a sequence. Raises TypeError for a single one, whose letters would be taken for ids."""
    if isinstance(session_ids, str):
        raise TypeError("several ids are wanted, in a list; there is a verb for a single one")
    return [*session_ids]
