"""The SDK's `SubscriptionBus` over our broadcaster: `subscriptions/listen` streams of every replica hear what any
replica publishes, and so do the standalone streams of the handshake era."""

from __future__ import annotations

from collections.abc import Callable

from mcp.shared.subscriptions import (
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
    event_from_wire,
)

from mcpsession.broadcaster import Broadcaster
from mcpsession.model import Mail, News

_METHODS: dict[type[ServerEvent], str] = {
    ToolsListChanged: "notifications/tools/list_changed",
    PromptsListChanged: "notifications/prompts/list_changed",
    ResourcesListChanged: "notifications/resources/list_changed",
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

        def hear(news: News, mail: Mail) -> None:
            del mail
            if (event := event_from_wire(news.method, news.params)) is not None:
                listener(event)

        return self._broadcaster.subscribe(hear)


def news_of(event: ServerEvent) -> News:
    if isinstance(event, ResourceUpdated):
        return News("notifications/resources/updated", {"uri": event.uri})
    return News(_METHODS[type(event)])
