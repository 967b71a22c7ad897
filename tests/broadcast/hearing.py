"""What the tests of the broadcaster begin with: replicas whose store can be stopped at each step, and ears."""

from __future__ import annotations

from typing import Any

import anyio

from mcpsession import Gap, News, SessionLayer
from mcpsession.settings import Settings
from mcpsession.subscription import Subscription
from tests.sdk.gates import Gated
from tests.sessions.replicas import Place

END = News("test/end")


def said(number: object) -> News:
    """News of the application's own, of which none replaces another."""
    return News("test/said", {"number": number})


def state(number: object, uri: str = "test://state") -> News:
    """News of which the newest replaces the others."""
    return News("notifications/resources/updated", {"uri": uri, "title": str(number)})


def short(news: News) -> object:
    """What tells news apart, in one word."""
    if isinstance(news, Gap):
        return f"gap of {news.missed}"
    return news.params.get("number", news.params.get("title", news.method))


async def hear(subscription: Subscription, number: int = 1) -> list[object]:
    """The next news, so many."""
    with anyio.fail_after(10):
        return [short(await anext(subscription)) for _ in range(number)]


async def hear_all(subscription: Subscription) -> list[object]:
    """All news until END, or until it ends."""
    heard = []
    with anyio.fail_after(20):
        async for news in subscription:
            if news == END:
                break
            heard.append(short(news))
    return heard


class Stoppable:
    """A replica whose reads can be stopped: `live`, those of the post office; `log`, those of news."""

    def __init__(self, place: Place, **settings: Any) -> None:
        real = place.backend(**settings)
        self.mail = Gated(real.mailbox)
        self.log = Gated(real.news_log)
        self.live = self.mail.before["news"]
        self.layer = SessionLayer(_With(real, self.mail, self.log), Settings(**{**place.settings, **settings}))
        self.publish = self.layer.broadcaster.publish
        self.subscribe = self.layer.broadcaster.subscribe

    async def tell(self, *numbers: object) -> None:
        """Publish them, one after the other."""
        for number in numbers:
            await self.publish(said(number))

    async def stop_live(self) -> None:
        """Let nothing come live. A read that was under way has ended when this returns."""
        probe = self.subscribe(topic="stop")
        # What the post office reads on from here is held: it comes to the gate with the bell of this.
        await self.publish(END, topic="stop")
        await anext(probe)
        self.live.close()
        await self.publish(END, topic="stop")
        await self.live.reached.wait()
        probe.close()

    async def all_came(self) -> None:
        """Wait until everything that was published so far has come live."""
        probe = self.subscribe(topic="came")
        await self.publish(END, topic="came")
        with anyio.fail_after(10):
            await anext(probe)
        probe.close()


class _With:
    """A backend with other parts."""

    def __init__(self, real: Any, mailbox: Any, news_log: Any) -> None:
        self._real = real
        self.mailbox = mailbox
        self.news_log = news_log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
