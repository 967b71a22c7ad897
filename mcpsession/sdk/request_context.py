"""The request that is being handled, for tools and what they call: whose it is, and how it is traced."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from mcp_types import RequestId

from mcpsession.model import ReplicaId, SessionId, fingerprint

# W3C Trace Context: version, trace, span, flags. Versions after 00 may say more behind a dash.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
# What whoever passes it on must keep to; a longer one may be dropped.
_LONGEST_TRACESTATE = 512


class Trace(NamedTuple):
    """Where a request stands in a distributed trace, as its client said."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 of them: the client's span."""
    sampled: bool
    state: str | None = None
    """The vendors' own, as it came."""

    @property
    def traceparent(self) -> str:
        """To be passed on."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentRequest:
    """A client's request. Its repr is fit for a log: neither the session's id nor its owner is in it."""

    session: str = field(init=False)
    """The session's fingerprint, as in logs."""
    session_id: SessionId = field(repr=False)
    owner: str = field(repr=False)
    """The principal that created the session, as canonical JSON; empty for an anonymous client."""
    request_id: RequestId
    method: str
    protocol_version: str
    trace: Trace | None
    """From `_meta.traceparent` of the request's params, else from the HTTP header; None without a valid one."""
    remote: tuple[str, int] | None
    """The client's address as the server knows it; behind a proxy that is what the server makes of its headers."""
    replica: ReplicaId
    """Which one handles it."""
    began_at: datetime
    """When it arrived, by this replica's clock."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "session", fingerprint(self.session_id))

    @property
    def trace_id(self) -> str | None:
        return None if self.trace is None else self.trace.trace_id


def trace_of(params: Mapping[str, Any] | None, headers: Iterable[tuple[bytes, bytes]]) -> Trace | None:
    """Where the request stands in a trace; None if it does not say, or not in a way that can be read."""
    meta = (params or {}).get("_meta")
    if isinstance(meta, Mapping) and (trace := _trace(meta.get("traceparent"), meta.get("tracestate"))):
        return trace
    fields = list(headers)
    parent = next((value for name, value in fields if name == b"traceparent"), None)
    if parent is None:
        return None
    # A list may be spread over several headers.
    state = ",".join(value.decode("latin-1") for name, value in fields if name == b"tracestate")
    return _trace(parent.decode("latin-1"), state)


def remote_of(scope: Mapping[str, Any]) -> tuple[str, int] | None:
    """The client's address as ASGI has it."""
    match scope.get("client"):
        case [str() as host, int() as port]:
            return host, port
        case _:
            return None


def _trace(parent: object, state: object) -> Trace | None:
    match = _TRACEPARENT.fullmatch(parent.strip()) if isinstance(parent, str) else None
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not (int(trace_id, 16) and int(span_id, 16)):
        return None
    text = state.strip() if isinstance(state, str) else ""
    return Trace(trace_id, span_id, bool(int(flags, 16) & 1), text if 0 < len(text) <= _LONGEST_TRACESTATE else None)
