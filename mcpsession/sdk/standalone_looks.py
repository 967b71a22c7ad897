"""Looks for what no bell told of, for all standalone streams that this replica holds.

Costs one statement for a thousand streams every 15 s, and every `poll` while no bell is heard: with one for each,
ten thousand streams at rest were 700 statements a second, and a listener's reconnection kept the pool busy for seconds.
"""

from __future__ import annotations

import random
from typing import NoReturn

from mcpsession.periodic import patiently
from mcpsession.sdk.parts import Parts
from mcpsession.sdk.standalone import Standalone

# A bell can be lost; then events wait for this look.
_SLOW_LOOK = 15.0
_AT_ONCE = 1000


async def look_on(parts: Parts) -> NoReturn:
    """Look until cancelled: now and then, and whenever any stream may have grown."""

    async def go_on() -> NoReturn:
        while True:
            # First: after a failure nobody knows what was not looked at.
            await look_once(parts)
            # Jittered: replicas that fell deaf together need not all look at the same moment.
            pause = _SLOW_LOOK if parts.listening.hears else parts.settings.poll
            await parts.tails.alarmed(pause * random.uniform(0.5, 1.0))

    await patiently(go_on, name="the look at standalone streams", longest=parts.settings.poll)


async def look_once(parts: Parts) -> None:
    """Wake the streams that have grown, or are held elsewhere now."""
    streams = [stream for stream in parts.standalones if isinstance(stream, Standalone)]
    for start in range(0, len(streams), _AT_ONCE):
        held = {stream: at for stream in streams[start : start + _AT_ONCE] if (at := stream.held) is not None}
        if not held:
            continue
        changed = await parts.holds.changed(list(held.values()))
        for stream in held:
            if stream.session.id in changed:
                stream.doubt()
