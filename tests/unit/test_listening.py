"""Whether bells are heard: what is told of it, and when."""

from __future__ import annotations

import logging

import pytest

from mcpsession.listening import Listening


def told(*states):
    """What a callback hears of these."""
    listening, heard = Listening(), []
    listening.on(heard.append)
    for state in states:
        listening.note(state)
    return heard


def test_each_change_is_told_in_order():
    states = ["connected", "disconnected", "failed", "failed", "reconnected"]
    assert states == told(*states)


def test_the_first_time_of_a_later_ear_is_no_first_time():
    """A replica that goes on under a new id has a new ear; who asked to be told knows of one listener only."""
    assert ["connected", "disconnected", "reconnected"] == told("connected", "disconnected", "connected")


def test_one_that_never_heard_is_connected_when_it_hears():
    assert ["failed", "failed", "connected"] == told("failed", "failed", "connected")


@pytest.mark.parametrize(
    ("state", "hears"), [("connected", True), ("reconnected", True), ("disconnected", False), ("failed", False)]
)
def test_it_hears_in_these_states_only(state, hears):
    listening = Listening()
    assert not listening.hears
    listening.note(state)
    assert hears == listening.hears
    assert state == listening.state


def test_it_is_deaf_since_it_last_heard_not_since_the_last_attempt(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    listening = Listening()
    assert 0.0 == listening.deaf_for
    for clock[0], state, deaf_for in (
        (101.0, "failed", 0.0),
        (103.0, "failed", 2.0),
        (104.0, "connected", 0.0),
        (110.0, "disconnected", 0.0),
        (115.0, "failed", 5.0),
        (120.0, "reconnected", 0.0),
    ):
        listening.note(state)
        assert deaf_for == listening.deaf_for


def test_at_rest_it_starts_all_over():
    listening, heard = Listening(), []
    listening.on(heard.append)
    listening.note("connected")
    listening.rest()
    assert (None, False, 0.0) == (listening.state, listening.hears, listening.deaf_for)
    listening.note("connected")
    assert ["connected", "connected"] == heard


def test_a_callback_that_fails_is_logged_and_the_others_are_told(caplog):
    caplog.set_level(logging.ERROR)
    listening, heard = Listening(), []

    @listening.on
    def failing(state):
        raise RuntimeError(state)

    listening.on(heard.append)
    listening.note("connected")
    assert ["connected"] == heard
    assert "a listener callback failed" in caplog.messages


def test_a_callback_given_as_a_decorator_stays_what_it_was():
    def callback(state):
        raise AssertionError(state)

    assert callback is Listening().on(callback)


def test_its_repr_says_how_it_is():
    listening = Listening()
    assert "<Listening at rest>" == repr(listening)
    listening.note("failed")
    assert "<Listening failed>" == repr(listening)
