"""What servers announce most, by name."""

from __future__ import annotations

from typing import Any, Protocol

from mcpsession import news
from mcpsession.model import News, NoStream, Published, SessionId
from mcpsession.progress import current_report


class _Publisher(Protocol):
    async def publish(
        self, news: News, session_id: SessionId | None = None, topic: str | None = None, *, conn: object = None
    ) -> Published | NoStream: ...


class Announcements:
    """To all clients, or to one session's; `conn` and what is returned and raised as with `publish`."""

    async def tools_list_changed(
        self: _Publisher, *, session_id: SessionId | None = None, conn: object = None
    ) -> Published | NoStream:
        """The list of tools has changed."""
        return await self.publish(news.TOOLS_CHANGED, session_id, conn=conn)

    async def prompts_list_changed(
        self: _Publisher, *, session_id: SessionId | None = None, conn: object = None
    ) -> Published | NoStream:
        """The list of prompts has changed."""
        return await self.publish(news.PROMPTS_CHANGED, session_id, conn=conn)

    async def resources_list_changed(
        self: _Publisher, *, session_id: SessionId | None = None, conn: object = None
    ) -> Published | NoStream:
        """The list of resources has changed."""
        return await self.publish(news.RESOURCES_CHANGED, session_id, conn=conn)

    async def resource_updated(
        self: _Publisher,
        uri: str,
        title: str | None = None,
        *,
        session_id: SessionId | None = None,
        conn: object = None,
    ) -> Published | NoStream:
        """A resource has changed: clients hear it that have subscribed to exactly this URI."""
        return await self.publish(news.resource_updated(uri, title), session_id, conn=conn)

    async def log_message(
        self: _Publisher,
        level: str,
        data: Any,
        logger: str | None = None,
        *,
        session_id: SessionId | None = None,
        conn: object = None,
    ) -> Published | NoStream:
        """A message of the server's log: clients hear it whose level (`logging/setLevel`) lets it pass.

        Raises NewsError for a level that the specification does not have.
        """
        return await self.publish(news.log_message(level, data, logger), session_id, conn=conn)

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """How far the request is that is being handled: its client alone hears it, on the request's own stream.

        Nothing is sent if the client did not ask for progress, nor once the request has finished.

        Raises NoRequestError outside of a tool (or another handler of a request), and in requests of 2026-07-28: a tool
        that is called in these, too, uses the SDK's `ctx.report_progress`.
        """
        await current_report()(progress, total, message)
