"""The SDK's `SubscriptionBus` over our broadcaster: `subscriptions/listen` streams of every replica hear what any
replica publishes, and so do the standalone streams of the handshake era."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection

from mcp.shared.subscriptions import (
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
    event_from_wire,
)

from mcpsession.broadcaster import Broadcaster
from mcpsession.model import Heard, News
from mcpsession.news import PROMPTS_CHANGED, RESOURCES_CHANGED, TOOLS_CHANGED, everything_changed, resource_updated

_NEWS: dict[type[ServerEvent], News] = {
    ToolsListChanged: TOOLS_CHANGED,
    PromptsListChanged: PROMPTS_CHANGED,
    ResourcesListChanged: RESOURCES_CHANGED,
}


class Subscriptions:
    """Pass it to the server: `MCPServer(subscriptions=layer.subscriptions)`."""

    def __init__(self, broadcaster: Broadcaster) -> None:
        self._broadcaster = broadcaster

    async def publish(self, event: ServerEvent) -> None:
        """Deliver `event` to every listener of every replica, once each. Durable when it returns.

        Raises StoreUnavailableError if it could not be recorded: then nobody was told.
        """
        await self._broadcaster.publish(news_of(event))

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """Register a listener of this replica; returns what ends that, safe to call twice."""

        def hear(heard: Heard | None) -> None:
            if heard is None:
                told = everything_changed(_resources_of(listener))
            else:
                # A listen stream belongs to no session, and has no topics.
                told = [heard.news] if heard.session_id is None and heard.topic is None else []
            for news in told:
                if (event := event_from_wire(news.method, news.params)) is not None:
                    listener(event)

        return self._broadcaster.listen(hear)


def _resources_of(listener: Callable[[ServerEvent], None]) -> Collection[str]:
    """The resources that a listen stream asked for, where it is the SDK's: its listener keeps them to itself."""
    if not inspect.isfunction(listener):
        return ()
    found: Collection[str] = inspect.getclosurevars(listener).nonlocals.get("honored_uris", ())
    return found


def news_of(event: ServerEvent) -> News:
    return resource_updated(event.uri) if isinstance(event, ResourceUpdated) else _NEWS[type(event)]
