"""Everything that is raised on purpose. The message ends with the remedy when there is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcpsession.records import Session


class MCPSessionError(Exception):
    """The base of all errors of this package."""


class ConfigurationError(MCPSessionError, ValueError):
    """A setting has a value that cannot work."""

    def __init__(self, setting: str, value: object, allowed: str) -> None:
        super().__init__(f"{setting}={value!r} is not allowed: {allowed}")
        self.setting = setting
        self.value = value


class StoreUnavailableError(MCPSessionError, ConnectionError):
    """The store cannot be reached now; trying again later is right."""

    def __init__(self, what: str, remedy: str = "check that Postgres runs and accepts connections") -> None:
        super().__init__(f"the session store is away: {what}; {remedy}")
        self.what = what


class StoreError(MCPSessionError, RuntimeError):
    """The store refused a statement; trying the same again is useless."""

    def __init__(self, what: str, sqlstate: str | None = None) -> None:
        super().__init__(f"the session store refused: {what}" + (f" (SQLSTATE {sqlstate})" if sqlstate else ""))
        self.what = what
        self.sqlstate = sqlstate


class SchemaError(MCPSessionError, RuntimeError):
    """The database has no schema of ours, or one that this version does not know."""

    def __init__(self, found: str | None, expected: str, url: str = "URL") -> None:
        if found is None:
            message = f"the database has no mcpsession schema; run: mcpsession migrate --url {url}"
        else:
            message = (
                f"the database's mcpsession schema is at revision {found!r}, this version expects {expected!r}; "
                f"if the schema is older, run: mcpsession migrate --url {url}; if it is newer, upgrade the package"
            )
        super().__init__(message)
        self.found = found
        self.expected = expected


class DistributionError(MCPSessionError, RuntimeError):
    """The tables cannot be distributed; they are as they were."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"the tables cannot be distributed: {what}; {remedy}")
        self.what = what


class ListenerError(MCPSessionError, ConnectionError):
    """LISTEN is accepted but nothing is heard: a pooler in transaction mode lies between."""

    def __init__(self, waited: float) -> None:
        super().__init__(
            f"the listening connection heard nothing of its own echo within {waited:g} s: there is probably a pooler "
            "in transaction mode between; give a direct URL for it: MCPSESSION_LISTEN_URL or from_url(listen_url=…), "
            "or start without bells, slower: MCPSESSION_LISTENER=optional"
        )


class SessionNotFoundError(MCPSessionError, LookupError):
    """No live session has this id: it never existed, expired, was ended, or is someone else's."""

    def __init__(self, session_id: str) -> None:
        super().__init__("no live session has this id; create one (as an MCP client: start a new one with initialize)")
        self.session_id = session_id


class SessionExistsError(MCPSessionError, ValueError):
    """A session with this id lives, or was terminated not long ago, or is someone else's."""

    def __init__(self, session_id: str, existing: Session | None = None) -> None:
        if existing is None:
            super().__init__("this id is not free: it is someone else's, or its session was terminated; take another")
        else:
            super().__init__('a session with this id exists already; pass on_conflict="existing" or "replace"')
        self.session_id = session_id
        self.existing = existing
        """The live session that has the id, as far as the caller may see it."""


class UnhandledError(MCPSessionError, RuntimeError):
    """Dead sessions are in the way whose expiry handlers have not run yet."""

    def __init__(self, session_ids: Sequence[str]) -> None:
        super().__init__(f"the expiry handlers of {len(session_ids)} sessions have not run yet")
        self.session_ids = session_ids


class InvalidSessionIdError(MCPSessionError, ValueError):
    """An id that no client could send."""

    def __init__(self) -> None:
        super().__init__("a session's id must be visible ASCII characters (0x21 to 0x7e), at least one")


class LimitExceededError(MCPSessionError, ValueError):
    """Something would be larger, or more, than the settings allow; nothing of it was stored."""

    def __init__(self, limit: str, allowed: int, actual: int | None = None, *, remedy: str = "") -> None:
        is_what = "is reached" if actual is None else f"would be exceeded: {actual}"
        remedy = remedy or f"raise the setting {limit}, or MCPSESSION_{limit.upper()}"
        super().__init__(f"the limit {limit}={allowed} {is_what}; {remedy}")
        self.limit = limit
        self.allowed = allowed
        self.actual = actual


class IllegalTransitionError(MCPSessionError, RuntimeError):
    """A session cannot go from its phase to that one now."""

    def __init__(self, session_id: str, phase: str, wanted: str, why: str) -> None:
        super().__init__(f"the session is in phase {phase!r} and cannot become {wanted!r}: {why}")
        self.session_id = session_id
        self.phase = phase
        self.wanted = wanted


class UpdateFailedError(MCPSessionError, RuntimeError):
    """The function given to update raised, or made something that is not a JSON object; nothing was stored."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"no state was stored: {reason}")


class StateConflictError(MCPSessionError, RuntimeError):
    """Others changed a session's state at the same time, and came first; nothing was stored."""

    def __init__(self, keys: frozenset[str] = frozenset(), *, version: int | None = None) -> None:
        if version is not None:
            message = f"the state is not at version {version} any more; read the session again"
        elif keys:
            message = f"another request changed state {sorted(keys)} at the same time; call the tool again"
        else:
            message = "of very many changes of the state at the same time this one lost each time; try it again"
        super().__init__(message)
        self.keys = keys


class UnstorableTextError(MCPSessionError, ValueError):
    """Text that no store can hold (a NUL character, a lone surrogate); nothing of it was stored."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the text cannot be stored: {reason}; send valid Unicode without NUL")


class MetadataError(MCPSessionError, ValueError):
    """Metadata that is not a JSON object."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"metadata must be a dict of JSON values: {reason}")


class MessageTooLargeError(MCPSessionError, ValueError):
    """A message is larger than a stream may carry."""

    def __init__(self, size: int, allowed: int) -> None:
        super().__init__(f"the message has {size} bytes, at most {allowed} are allowed (max_message_bytes)")
        self.size = size
        self.allowed = allowed


class StreamLostError(MCPSessionError, RuntimeError):
    """Another replica finished this stream, because this one was taken for dead."""

    def __init__(self) -> None:
        super().__init__("this stream was finished by another replica; its call is over")


class HoldRefusedError(MCPSessionError, RuntimeError):
    """Two clients fight for one standalone stream."""

    def __init__(self) -> None:
        super().__init__("this session's standalone stream was taken over twice within 10 s; close one of the clients")


class BroadcasterClosedError(MCPSessionError, RuntimeError):
    """The broadcaster was closed."""

    def __init__(self) -> None:
        super().__init__("the broadcaster was closed, so nobody would hear this; it opens again with the layer")


class SlowSubscriberError(MCPSessionError, RuntimeError):
    """A subscription with the policy `disconnect` was ended, because its subscriber lagged behind."""

    def __init__(self, buffer: int) -> None:
        super().__init__(
            f"this subscriber lagged {buffer} news behind and was disconnected; read faster, subscribe again, or "
            'choose another policy: "resync" or "replay" lose nothing that matters'
        )


class NewsError(MCPSessionError, ValueError):
    """Something that cannot be published."""

    def __init__(self, what: str) -> None:
        super().__init__(f"this cannot be sent: {what}")


class NoRequestError(MCPSessionError, LookupError):
    """Progress was reported where no request is being handled."""

    def __init__(self) -> None:
        super().__init__(
            "progress belongs to a session's request, and none is being handled here: report it from within a tool; in "
            "one that clients of 2026-07-28 call, too, with the SDK's ctx.report_progress"
        )


class NotSubscribedError(MCPSessionError, LookupError):
    """A session has not subscribed to this resource."""

    def __init__(self, session_id: str, uri: str) -> None:
        super().__init__(
            f"the session has not subscribed to {uri!r:.200}; see layer.sessions.subscriptions(session_id)"
        )
        self.session_id = session_id
        self.uri = uri


class DuplicateRequestError(MCPSessionError, ValueError):
    """A request with this id is under way in the session already."""

    def __init__(self, request_id: int | str) -> None:
        shown = f"{request_id!r:.80}"
        super().__init__(f"a request with id {shown} is under way in this session; complete it first, or take another")
        self.request_id = request_id


class EventError(MCPSessionError, ValueError):
    """Something that cannot be an event, or a cursor; nothing was stored."""

    def __init__(self, what: str) -> None:
        super().__init__(f"this cannot be logged or replayed: {what}")


class LayerClosedError(MCPSessionError, RuntimeError):
    """The layer is not running."""

    def __init__(self) -> None:
        super().__init__(
            "the session layer is not running; enter it first: async with layer (the app that it makes does by itself)"
        )
