"""What the tests of `layer.control` begin with: replicas on one store that write down what they apply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anyio

from mcpsession import SessionLayer
from mcpsession.settings import Settings
from tests.sdk.gates import Gated, until
from tests.sessions.replicas import Place

Params = Mapping[str, Any]
LOST = "UPDATE mcpsession.replicas SET dead_at = now() WHERE namespace = $1 AND id = $2"


class Replica:
    """One layer, that is to be entered, its control log behind gates, and what it has applied."""

    def __init__(self, backend: Any, settings: Settings, *methods: str) -> None:
        self.backend = backend
        self.rows = backend.control = Gated(backend.control)
        self.mailbox = backend.mailbox = Gated(backend.mailbox)
        self.layer = SessionLayer(backend, settings)
        self.control = self.layer.control
        self.applied: list[tuple[str, Any]] = []
        """Method, and the param `n`."""
        for method in methods:
            self.control.on(method)(self._remember(method))

    def _remember(self, method: str) -> Callable[[Params], None]:
        async def remember(params: Params) -> None:
            await anyio.lowlevel.checkpoint()
            self.applied.append((method, params.get("n")))

        return remember  # type: ignore[return-value]

    @property
    def numbers(self) -> list[Any]:
        return [n for _, n in self.applied]

    @property
    def id(self) -> str:
        return self.layer._wiring.me()

    async def __aenter__(self) -> Replica:
        await self.layer.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> None:
        await self.layer.__aexit__(*raised)

    async def live(self) -> None:
        """Run until cancelled, as a process does."""
        async with self:
            await anyio.sleep_forever()

    async def reach(self, version: int) -> None:
        """Wait until it has applied everything up to a version."""
        with anyio.fail_after(10):
            await until(lambda: self.control.applied >= version)

    async def send(self, n: Any = None, method: str = "reload", *, key: str = "") -> int:
        return await self.control.send(method, {"n": n}, key=key)

    def counts(self, name: str) -> int:
        return self.layer.health().counts.get(f"mcpsession_{name}_total", 0)


class _Apart:
    """A backend whose parts can be replaced for one replica, while others share the store."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


class ControlPlace(Place):
    """One store, and as many replicas on it as a test wants."""

    def new(self, *methods: str, **settings: Any) -> Replica:
        """A replica that is to be entered; it knows `reload` unless the test says otherwise."""
        chosen = Settings(**{**self.settings, **settings})
        return Replica(_Apart(self.backend(**settings)), chosen, *(methods or ("reload",)))
