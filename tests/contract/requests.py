"""What the tests of requests under way begin with, and how they wait."""

from __future__ import annotations

from mcpsession.contracts import Backend
from mcpsession.event_records import RequestInfo
from tests.contract.given import until

SOON = 0.02
"""A tracked request's time, in tests that see it pass."""


async def track(
    backend: Backend,
    request_id: str = "1",
    method: str = "work",
    *,
    session_id: str = "session",
    timeout: float = 60,  # noqa: ASYNC109  # of the request, not of this call
    by: str = "a",
) -> RequestInfo:
    info = await backend.requests.track(session_id, request_id, method, timeout, by=by)
    assert info is not None
    return info


async def running(backend: Backend, session_id: str | None = None, **options: str) -> list[tuple[str, int | str]]:
    found = await backend.requests.running(session_id, limit=100, **options)  # type: ignore[arg-type]
    return [(info.session_id, info.request_id) for info in found]


async def over(backend: Backend, request_id: str = "1") -> None:
    """Wait until a tracked request's time is over."""

    async def is_over() -> bool:
        return await backend.requests.find("session", request_id) is None

    await until(is_over)


async def kill(backend: Backend, replica: str) -> None:
    async with backend.registry() as registry:
        await registry.leave(replica)


def as_text(info: RequestInfo) -> str:
    return f'"{info.request_id}"' if isinstance(info.request_id, str) else str(info.request_id)
