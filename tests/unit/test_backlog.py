"""News that waits for one subscriber, and gaps in the place of what was dropped: bounded, in order, nothing unsaid."""

from __future__ import annotations

from random import Random

import pytest

from mcpsession.backlog import Backlog
from mcpsession.model import Gap, News


def news(number: int) -> News:
    return News("test/said", {"number": number})


def all_of(backlog: Backlog) -> list[object]:
    """What is in it: numbers of news, gaps as negative numbers, None for nobody-knows."""
    items: list[object] = []
    while backlog:
        item = backlog.take()
        items.append(-item.missed if isinstance(item, Gap) else item if item is None else item.params["number"])
    assert 0 == backlog.held
    return items


def filled(number: int) -> Backlog:
    backlog = Backlog()
    for n in range(number):
        backlog.add(news(n))
    return backlog


async def test_what_is_dropped_at_the_end_leaves_one_gap_there():
    backlog = filled(2)
    assert backlog.drop_newest()
    assert not backlog.drop_newest()
    backlog.add(news(9))
    assert backlog.drop_newest()
    assert [0, 1, -2, 9, -1] == all_of(backlog)


async def test_what_is_dropped_at_the_beginning_leaves_one_gap_there():
    backlog = filled(4)
    assert backlog.drop_oldest()
    assert not backlog.drop_oldest()
    assert [-2, 2, 3] == all_of(backlog)


async def test_nobody_knows_swallows_the_gaps_beside_it():
    backlog = filled(2)
    backlog.drop_newest()
    backlog.lose()
    backlog.lose()
    assert not backlog.drop_newest()
    assert [0, 1, None] == all_of(backlog)

    backlog = filled(1)
    backlog.lose()
    assert not backlog.drop_oldest()
    backlog.add(news(5))
    assert [None, 5] == all_of(backlog)

    backlog = Backlog()
    backlog.lose()
    for n in range(3):
        backlog.add(news(n))
    assert not backlog.drop_oldest()
    assert not backlog.drop_oldest()
    assert [None, 2] == all_of(backlog)


@pytest.mark.parametrize("how", ["newest", "oldest"])
@pytest.mark.parametrize("seed", range(20))
async def test_every_news_is_there_or_in_a_gap_in_its_place(how: str, seed: int):
    """Against the plain truth: what was given, dropped or taken, one by one."""
    random, backlog, room = Random(seed), Backlog(), 3
    seen = given = 0
    for number in range(500):
        if random.random() < 0.4 and backlog:
            item = backlog.take()
            assert item is not None
            if isinstance(item, Gap):
                seen += item.missed
            else:
                assert seen == item.params["number"]
                seen += 1
        given += 1
        if backlog.held < room:
            backlog.add(news(number))
        elif how == "newest":
            backlog.drop_newest()
        else:
            backlog.drop_oldest()
            backlog.add(news(number))
        assert len(backlog._items) <= 2 * room + 1
    rest = all_of(backlog)
    assert given == seen + sum(-item if isinstance(item, int) and item < 0 else 1 for item in rest)
