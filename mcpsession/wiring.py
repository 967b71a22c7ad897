"""The parts of one replica, built, and what they tell each other."""

from __future__ import annotations

import logging
import math

import anyio
import anyio.abc

from mcpsession.broadcaster import Broadcaster
from mcpsession.cache import SessionCache
from mcpsession.contracts import Backend
from mcpsession.control import ControlLog
from mcpsession.endings import Endings
from mcpsession.events import Events
from mcpsession.expiry import ExpiryHandlers
from mcpsession.following import Following
from mcpsession.heartbeat import Heartbeat
from mcpsession.journal import Journal
from mcpsession.model import STANDALONE, Pulse, ReplicaId
from mcpsession.orphans import Orphans
from mcpsession.post_office import PostOffice
from mcpsession.reaper import Reaper
from mcpsession.requests import Requests
from mcpsession.sdk.cancelling import Cancelling
from mcpsession.sdk.parts import Limits, Parts
from mcpsession.sdk.termination import announce_change, introduce
from mcpsession.sessions import Sessions
from mcpsession.settings import Settings
from mcpsession.surroundings import Surroundings
from mcpsession.tails import Tails
from mcpsession.telemetry import Telemetry
from mcpsession.touches import Touches

logger = logging.getLogger(__name__)


class Wiring:
    """One replica, at rest; the layer runs it."""

    def __init__(self, backend: Backend, settings: Settings, telemetry: Telemetry) -> None:
        self.tasks: anyio.abc.TaskGroup | None = None
        """The layer's, while it runs."""
        self.heartbeat = heartbeat = Heartbeat(backend, settings)
        self.post_office = post_office = PostOffice(backend.mailbox, backend.doorbell, self.me)
        cache = SessionCache(backend.sessions, settings, self._proven_at)
        self.handlers = ExpiryHandlers(backend.reaping, settings, me=self.me, telemetry=telemetry)
        self.endings = endings = Endings(
            backend.sessions,
            backend.reaping,
            self.handlers,
            post_office,
            settings,
            me=self.me,
            tasks=self._running,
            telemetry=telemetry,
        )
        self.orphans = Orphans(backend.log, backend.requests, settings, me=self.me, telemetry=telemetry)
        self.reaper = Reaper(
            backend.reaping,
            backend.directory,
            self.orphans,
            self.handlers,
            endings,
            settings,
            tasks=self._running,
            telemetry=telemetry,
        )
        self.parts = parts = Parts(
            settings=settings,
            sessions=backend.sessions,
            initialization=backend.initialization,
            subscriptions=backend.subscriptions,
            log=backend.log,
            holds=backend.holds,
            mailbox=backend.mailbox,
            cache=cache,
            touches=Touches(backend.sessions, cache.extend),
            journal=Journal(backend.log, settings, self.me),
            tails=Tails(),
            post_office=post_office,
            broadcaster=Broadcaster(
                backend.news_log,
                settings,
                me=self.me,
                ring=post_office.ring_all,
                place=lambda: (post_office.before, post_office.position),
                telemetry=telemetry,
            ),
            news_log=backend.news_log,
            heartbeat=heartbeat,
            telemetry=telemetry,
            endings=endings,
            limits=Limits(
                ttl=settings.session_ttl,
                max_sessions=settings.max_sessions,
                max_sessions_per_owner=settings.max_sessions_per_owner,
                retry_ms=settings.retry_ms,
            ),
        )
        self.sessions = Sessions(
            Surroundings(
                backend=backend,
                settings=settings,
                endings=endings,
                handlers=self.handlers,
                me=self.me,
                ttl=lambda: parts.limits.ttl,
                admission=lambda: parts.limits.admission(),
                changed=lambda session_id: announce_change(parts, session_id),
                cleanup=self._cleanup,
            )
        )
        self.requests = Requests(backend.requests, Cancelling(parts), settings, self.me)
        self.following = Following(backend.events, parts.tails, me=self.me, poll=settings.poll)
        parts.drain.ending += [self.following.close, parts.broadcaster.end_subscriptions]
        self.events = Events(backend.events, settings, self.following, post_office, parts.touches, telemetry=telemetry)
        self.control = ControlLog(backend.control, settings, me=self.me, ring=post_office.ring_all, telemetry=telemetry)
        self._reborn = anyio.Event()
        self._polls = False
        introduce(parts)
        self._introduce()

    def me(self) -> ReplicaId:
        return self.heartbeat.replica_id

    def _running(self) -> anyio.abc.TaskGroup | None:
        return self.tasks

    async def reborn(self) -> None:
        """Wait until this replica has become a new one."""
        await self._reborn.wait()
        self._reborn = anyio.Event()

    def _proven_at(self) -> float:
        """Since when a cached session may be older than what the store says. A replica that hears nothing believes
        nothing: what it would be told at once, it would learn of a second later."""
        office = self.post_office
        return office.proven_at if self.parts.listening.hears and not office.behind else -math.inf

    def after_a_gap(self) -> None:
        """The listener was away: nothing it knew of is certain, and bells may have been lost."""
        self.parts.cache.clear()
        self.parts.changes.note_all()
        self.post_office.wake()
        self.control.wake()
        self.parts.tails.wake_all()

    @property
    def poll_every(self) -> float:
        """Beats look as well. Where they are rare, somebody else must, often enough for the cache to be believed."""
        settings = self.parts.settings
        return min(settings.poll, settings.cache_lease / 2) if self._beats_are_rare else settings.poll

    @property
    def _beats_are_rare(self) -> bool:
        settings = self.parts.settings
        return settings.beat > min(settings.poll, settings.cache_lease / 2)

    async def poll(self) -> None:
        """Look for what no bell told of: while none is heard, and where beats are rare."""
        parts, deaf = self.parts, not self.parts.listening.hears
        if deaf or self._beats_are_rare:
            self.post_office.wake()
        if deaf and not self._polls:
            # Who waits for a bell learns that none will come; from now on it polls.
            parts.tails.wake_all()
        self._polls = deaf

    async def _cleanup(self) -> int:
        return (await self.reaper.run_once()).sessions

    def _introduce(self) -> None:
        parts, office, heartbeat = self.parts, self.post_office, self.heartbeat
        office.on("news", parts.broadcaster.hear)
        office.on("control", lambda _: self.control.wake())
        office.on_stream = parts.tails.wake
        office.on_death = parts.tails.wake_all
        office.on_hold = parts.standalones.let_go
        office.on_lost = self._all_may_have_changed
        parts.journal.on_standalone = lambda session_id, holder: office.ring_stream(holder, session_id, STANDALONE)
        self.orphans.on_finished = parts.tails.wake
        self.orphans.writes = parts.journal.writes
        heartbeat.position = lambda: office.position
        heartbeat.on_pulse = self._take_pulse
        heartbeat.on_death = lambda: self._finish_soon(strays=False)
        heartbeat.on_reborn = self._be_reborn

    def _all_may_have_changed(self) -> None:
        self.parts.cache.clear()
        self.parts.changes.note_all()
        self.parts.broadcaster.lose()
        self.control.wake()
        self.parts.tails.wake_all()

    def _take_pulse(self, pulse: Pulse, sent: float) -> None:
        if pulse.anew:
            # Perhaps another server, where the numbers of mail that was lost hide other mail from this position.
            self.parts.cache.clear()
        self.post_office.look_out(mail=pulse.mail, news=pulse.news, asked=sent)

    def _finish_soon(self, *, strays: bool) -> None:
        # At rest nobody does it; the next replica's reaper does.
        if self.tasks is not None:
            self.tasks.start_soon(self._finish, strays)

    async def _finish(self, strays: bool) -> None:
        await self.orphans.try_to_finish(strays=strays)
        if not strays:
            self.post_office.ring_death()

    def _be_reborn(self, new: ReplicaId) -> None:
        """This replica was declared dead: cut everything of the old incarnation, go on as a new one."""
        parts = self.parts
        parts.journal.abandon()
        parts.in_flight.sever_all()
        parts.standalones.let_go_all()
        parts.readers.let_go_all()
        parts.cache.clear()
        self._reborn.set()
        self.heartbeat.unfence()
        # What was opened under the new id before this cut is nobody's, and its producer lives.
        self._finish_soon(strays=True)
        logger.warning("cut everything of the old incarnation; serving on as %s", new)
