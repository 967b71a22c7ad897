"""An MCP server on a layer of the tests' choice, with tools that each test writes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio

from mcpsession import SessionLayer
from tests.sdk.replicas import Script, make_server


@dataclass
class Served:
    """The server on one replica."""

    app: Any
    layer: SessionLayer
    scripts: dict[str, Script] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.layer._parts.heartbeat.replica_id


@asynccontextmanager
async def served(layer: SessionLayer, **options: Any) -> AsyncIterator[Served]:
    scripts: dict[str, Script] = {}
    app = layer.streamable_http_app(make_server(layer, scripts), **options)
    async with app.router.lifespan_context(app):
        yield Served(app, layer, scripts)


class Waiting:
    """A script that waits to be cancelled, and says when it has begun and when it has stopped."""

    def __init__(self) -> None:
        self.began, self.stopped = anyio.Event(), anyio.Event()
        self.release = anyio.Event()

    async def __call__(self, ctx: Any) -> str:
        self.began.set()
        try:
            await self.release.wait()
        finally:
            self.stopped.set()
        return "released"
