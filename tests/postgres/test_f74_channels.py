"""F74: how the channels are called, and that two servers in one database never hear each other."""

from __future__ import annotations

import logging
from pathlib import Path

import anyio
import asyncpg
import pytest

from mcpsession import ConfigurationError, SessionLayer
from mcpsession.model import Bell, News
from mcpsession.postgres.listener import channel
from mcpsession.settings import Settings
from tests.postgres.ears import listening
from tests.postgres.stores import running_backend

PREFIXES = [
    "My-Chan",
    "two words",
    'a "quoted" one',
    "it's",
    "100%s",
    "$1",
    "a.b;--",
    "\\",
    "Prüfkanal ☃",
    "p" * 28,
    "ü" * 14,
]


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_f74_a_prefix_works_end_to_end_as_it_is_written(database_url: str, prefix: str) -> None:
    bystander = await asyncpg.connect(database_url)
    settings = Settings(channel_prefix=prefix)
    assert channel(settings, None).startswith(f"{prefix}_")
    with anyio.fail_after(10):
        async with running_backend(database_url, channel_prefix=prefix) as backend, listening(backend, "a" * 12) as ear:
            backend.doorbell.ring(Bell("a" * 12, "to one"))
            backend.doorbell.ring(Bell(None, "to all"))
            await ear.until("to all")
            # A stranger who knows the name, in its own case.
            await bystander.execute("SELECT pg_notify($1, 'from outside')", channel(settings, None))
            await ear.until("from outside")
    await bystander.close()

    assert ["to one", "to all", "from outside"] == ear.heard


async def test_f74_the_case_of_a_prefix_counts(database_url: str) -> None:
    with anyio.fail_after(10):
        async with (
            running_backend(database_url, channel_prefix="My-Chan") as large,
            running_backend(database_url, channel_prefix="my-chan") as small,
            listening(large) as one,
            listening(small) as other,
        ):
            large.doorbell.ring(Bell(None, "large"))
            await one.until("large")
            small.doorbell.ring(Bell(None, "small"))
            await other.until("small")

    assert (["large"], ["small"]) == (one.heard, other.heard)


@pytest.mark.parametrize("prefix", ["p" * 29, "p" * 64, "ü" * 15, "", "a\nb", "a\0b", "\ud800"])
def test_f74_a_prefix_that_no_channel_can_have_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match=r"channel_prefix.*1 to 28 bytes"):
        SessionLayer.from_url("postgresql://app@db/app", channel_prefix=prefix)


def test_f74_a_variable_with_such_a_prefix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCPSESSION_CHANNEL_PREFIX", "p" * 64)
    with pytest.raises(ConfigurationError, match="MCPSESSION_CHANNEL_PREFIX"):
        SessionLayer.from_url("postgresql://app@db/app")


@pytest.mark.parametrize("theirs", [{"namespace": "theirs"}, {"namespace": "theirs", "channel_prefix": "other"}])
async def test_f74_two_servers_in_one_database_never_hear_each_other(database_url: str, theirs: dict[str, str]) -> None:
    """Neither a bell nor the news that it tells of."""
    ours = SessionLayer.from_url(database_url, namespace="ours", channel_prefix="mine")
    others = SessionLayer.from_url(database_url, **theirs)
    told: list[tuple[str, str]] = []
    changed = anyio.Event()
    for name, layer in (("ours", ours), ("theirs", others)):

        def tell(heard: object, name: str = name) -> None:
            told.append((name, heard.news.method))  # type: ignore[attr-defined]
            changed.set()

        layer.broadcaster.listen(tell)
    with anyio.fail_after(10):
        async with ours, others:
            await ours.broadcaster.publish(News("notifications/ours"))
            while len(told) < 1:
                await changed.wait()
            changed = anyio.Event()
            await others.broadcaster.publish(News("notifications/theirs"))
            while len(told) < 2:
                await changed.wait()

    assert [("ours", "notifications/ours"), ("theirs", "notifications/theirs")] == told


async def test_f74_two_prefixes_in_one_namespace_do_not_hear_each_others_bells(database_url: str) -> None:
    with anyio.fail_after(10):
        async with (
            running_backend(database_url, channel_prefix="one") as one,
            running_backend(database_url, channel_prefix="two") as two,
            listening(one) as first,
            listening(two) as second,
        ):
            one.doorbell.ring(Bell("me", "one"))
            one.doorbell.ring(Bell(None, "one to all"))
            await first.until("one to all")
            two.doorbell.ring(Bell(None, "two"))
            await second.until("two")

    assert (["one", "one to all"], ["two"]) == (first.heard, second.heard)


# ---- The defaults -------------------------------------------------------------------------------------------------


async def _warnings(layer: SessionLayer, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.set_level(logging.WARNING)
    async with layer:
        pass
    return [message for message in caplog.messages if "MCPSESSION_NAMESPACE" in message]


async def test_f74_a_layer_with_the_default_names_on_a_database_warns_once(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert 1 == len(await _warnings(SessionLayer.from_url(database_url), caplog))


@pytest.mark.parametrize("named", [{"namespace": "orders"}, {"channel_prefix": "orders"}])
async def test_f74_one_with_a_name_of_its_own_does_not(
    database_url: str, caplog: pytest.LogCaptureFixture, named: dict[str, str]
) -> None:
    assert [] == await _warnings(SessionLayer.from_url(database_url, **named), caplog)


async def test_f74_nor_does_one_whose_store_nobody_shares(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert [] == await _warnings(SessionLayer.from_url("memory://"), caplog)
    assert [] == await _warnings(SessionLayer.from_url(f"embedded://{tmp_path}/data"), caplog)
