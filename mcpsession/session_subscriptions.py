"""What `layer.sessions` does with a session's subscriptions to resources, as its client does with requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mcpsession.errors import NotSubscribedError, SessionNotFoundError
from mcpsession.model import ReplicaId, SessionId
from mcpsession.session_contracts import ResourceSubscriptions, SessionStore
from mcpsession.texts import check_uri


class SessionSubscriptions:
    """The part of `layer.sessions` that subscribes. Sessions of another owner are as if they were not there."""

    def __init__(
        self,
        subscriptions: ResourceSubscriptions,
        store: SessionStore,
        me: Callable[[], ReplicaId],
        *,
        most: int | None,
        owner: str | None,
    ) -> None:
        self._subscriptions = subscriptions
        self._store = store
        self._me = me
        self._most = most
        self._owner = owner

    async def subscribe(self, session_id: SessionId, uri: str) -> None:
        """Let the session hear of changes of this resource, as `resources/subscribe` does; again is free.

        It holds, on every replica, for all news that is published after this has returned.

        Raises:
            SessionNotFoundError: it is not live.
            LimitExceededError: it has `max_subscriptions_per_session` already, or the URI has more than 1,500 bytes.
            UnstorableTextError: no store can hold the URI.
        """
        check_uri(uri)
        await self._check_owner_of(session_id)
        if not await self._subscriptions.subscribe(session_id, uri, self._most, sender=self._me()):
            raise SessionNotFoundError(session_id)

    async def unsubscribe(self, session_id: SessionId, uri: str) -> None:
        """End a subscription, for all news that is published after this has returned.

        Raises:
            SessionNotFoundError: the session is not live.
            NotSubscribedError: it has not subscribed to this resource.
        """
        check_uri(uri)
        await self._check_owner_of(session_id)
        if not await self._subscriptions.unsubscribe(session_id, uri, sender=self._me()):
            if await self._store.get(session_id) is None:
                raise SessionNotFoundError(session_id)
            raise NotSubscribedError(session_id, uri)

    async def subscriptions(self, session_id: SessionId) -> Sequence[str]:
        """The URIs that a live session has subscribed to, sorted; of one that is not live, none."""
        if self._owner is not None and not await self._is_ours(session_id):
            return []
        return await self._subscriptions.uris(session_id)

    async def _check_owner_of(self, session_id: SessionId) -> None:
        if self._owner is not None and not await self._is_ours(session_id):
            raise SessionNotFoundError(session_id)

    async def _is_ours(self, session_id: SessionId) -> bool:
        session = await self._store.get(session_id)
        return session is not None and session.owner == self._owner
