"""What a backend promises of news and of the control log. Memory and Postgres keep these promises alike.

Every method may raise StoreUnavailableError (try again later) and StoreError (do not). Time is the store's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from mcpsession.model import ControlMessage, Mail, NewsPage, ReplicaId, SessionId

PAGE_MAILS, PAGE_BYTES = 1000, 4 * 1024 * 1024
"""A page of the broadcast mail ends with the transaction that brings it to so many mails or bytes; one of the control
log with the message that brings it to so many bytes."""


class Reach(NamedTuple):
    """Whom news was recorded for."""

    holder: ReplicaId | None
    """The living replica that holds the standalone stream of the one session that it is for; None without one."""


class NewsLog(Protocol):
    """News for all, or for one session: broadcast mail of the kind `news`, which every replica reads by position.

    Order is that of each publisher: what was published after another publication had returned (or its transaction was
    committed) comes after it. None is promised across publishers.
    """

    async def publish(
        self, mail: Mail, *, uri: str | None = None, newest_of: str | None = None, connection: object = None
    ) -> Reach | None:
        """Record news, durable when it returns; None if it is for a session that is not live: then nothing is recorded.

        `uri`: the resource that it is about. `newest_of`: a reader that was away wants only the newest of these.
        `connection`: within that connection's transaction, whose commit rings all replicas; rolled back, nobody hears.

        Raises ConfigurationError for a connection that this store cannot use.
        """
        ...

    async def missed(
        self,
        position: str,
        *,
        session_id: SessionId | None = None,
        incarnation: int | None = None,
        topic: str | None = None,
        newest: bool = False,
        subscribed: bool = False,
        heard: Sequence[int] = (),
        floor: str = "",
    ) -> NewsPage | None:
        """The next page of news for all, or for this session or topic, past a position; None as in `Mailbox.news`.

        What is for a session and a topic is for whoever asks for both. `newest`: of news with the same `newest_of` only
        the newest. `subscribed`: of news about resources only those that the session has subscribed to. `incarnation`:
        of news for the session none of an earlier one with the same id. `heard` (ids) and `floor` (a position): what
        the reader has of all this already; it hides nothing that was committed later.
        """
        ...


class ControlPlace(NamedTuple):
    """How far somebody has read the control log."""

    version: int = 0
    mark: str = ""
    """Tells the message of this version from that of another timeline, where a fail-over lost it; may be empty."""


class ControlPage(NamedTuple):
    """Some of the control log past a place, in order of the versions."""

    messages: Sequence[ControlMessage]
    place: ControlPlace
    """Covers these messages, all before them, and those that were left out because a later one has replaced them."""
    more: bool
    """There may be more past the new place already."""


class ControlRows(Protocol):
    """The control log: the application's own messages to its replicas, numbered in the order of their commits.

    Whoever sees a version sees all before it, but for those that were replaced and have been reaped.
    """

    async def append(self, method: str, key: str, params: str, *, sender: ReplicaId) -> int:
        """Add a message, with a `control` mail to all in the same transaction; returns its version.

        The one before it of the same method and key is kept for `control_ttl` more, for replicas that were away.
        """
        ...

    async def read(self, place: ControlPlace, limit: int, *, newest: bool = False) -> ControlPage | None:
        """The next messages past a place: at least one if there is one, at most `limit`, and about 4 MiB.

        `newest`: none that a later one has replaced. None if the place is not of this log, which then is another
        timeline's.
        """
        ...

    async def forget(self, method: str, key: str) -> bool:
        """Let the newest message of a method and key be as replaced, without a later one; False if there is none."""
        ...
