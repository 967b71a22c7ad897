"""Which replicas have applied a mail: what the answer to a DELETE waits for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import anyio

from mcpsession.model import ReplicaId

# An acknowledgement can be heard before its sender knows the mail's id, so strangers' ones are kept for a while.
_MOST = 1000


class Acknowledgements:
    """Heard by bell, so one may get lost; then the cache lease, which the waiter waits for at most, has run out."""

    def __init__(self) -> None:
        self._heard: OrderedDict[int, set[ReplicaId]] = OrderedDict()
        self._changed = anyio.Event()

    def hear(self, mail_id: int, replica: ReplicaId) -> None:
        self._heard.setdefault(mail_id, set()).add(replica)
        while len(self._heard) > _MOST:
            self._heard.popitem(last=False)
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def wait(self, mail_id: int, replicas: Iterable[ReplicaId], *, at_most: float) -> bool:
        """Wait until all of these have acknowledged; False if that took longer than `at_most` seconds."""
        missing = set(replicas)
        with anyio.move_on_after(at_most):
            while missing := missing - self._heard.get(mail_id, set()):
                await self._changed.wait()
        self._heard.pop(mail_id, None)
        return not missing
