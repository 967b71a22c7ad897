"""The pair of servers that others break: what it keeps, and that it can be made whole again."""

from __future__ import annotations

from tests.standby import PairServer, PostgresPair, ask


def test_what_was_committed_is_there_after_a_fail_over_and_the_pair_can_be_made_whole() -> None:
    with PostgresPair() as pair:
        url, first = pair.url, pair.primary
        ask(url, "CREATE TABLE kept AS SELECT 1 AS n")

        pair.fail_over()
        assert (1, False) == (ask(url, "SELECT n FROM kept"), pair.is_synchronous)
        ask(url, "UPDATE kept SET n = 2")

        pair.rebuild()
        assert (first, True) == (pair.standby, pair.is_synchronous)
        pair.primary.restart()
        pair.until_synchronous()

        pair.fail_over(PairServer.freeze)
        assert (2, first, url) == (ask(url, "SELECT n FROM kept"), pair.primary, pair.url)
