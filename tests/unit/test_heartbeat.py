"""When a replica may declare another one dead: decided in plain code, so tried without waiting."""

from __future__ import annotations

from mcpsession.heartbeat import Watch


def test_a_counter_that_moves_is_alive_however_slowly_its_clock_runs():
    watch = Watch(dead_after=3.0)
    for beats in range(10):
        assert [] == watch.look({"a": beats}, now=beats * 2.9)


def test_a_counter_that_stood_still_for_dead_after_is_named_with_its_count():
    watch = Watch(dead_after=3.0)
    assert [] == watch.look({"a": 7, "b": 1}, now=0.0)
    assert [] == watch.look({"a": 7, "b": 2}, now=2.9)
    assert [("a", 7)] == watch.look({"a": 7, "b": 3}, now=3.0)


def test_a_replica_seen_for_the_first_time_is_not_dead_however_old_its_row():
    assert [] == Watch(dead_after=3.0).look({"a": 1}, now=1e9)


def test_after_ones_own_lapse_the_watch_begins_anew():
    """Else the first replica back after an outage would bury all others."""
    watch = Watch(dead_after=3.0)
    watch.look({"a": 1}, now=0.0)
    watch.forget()
    assert [] == watch.look({"a": 1}, now=30.0)
    assert [] == watch.look({"a": 1}, now=32.9)
    assert [("a", 1)] == watch.look({"a": 1}, now=33.0)


def test_who_left_and_came_back_is_watched_anew():
    watch = Watch(dead_after=3.0)
    watch.look({"a": 1}, now=0.0)
    watch.look({}, now=1.0)
    assert [] == watch.look({"a": 1}, now=3.5)
