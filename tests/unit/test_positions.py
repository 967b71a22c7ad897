"""What a position in the broadcast mail covers."""

from __future__ import annotations

import pytest

from mcpsession.model import has_seen


@pytest.mark.parametrize(
    ("position", "xid", "expected"),
    [
        ("10:20:@1.5", 9, True),
        ("10:20:@1.5", 15, True),
        ("10:20:@1.5", 20, False),
        ("10:20:12,15@1.5", 15, False),
        ("10:20:12,15@1.5", 14, True),
        ("10:20:12,15@1.5", 1, True),
        ("", 1, False),
        ("nonsense", 1, False),
    ],
)
def test_a_position_covers_what_its_snapshot_saw(position, xid, expected):
    assert expected == has_seen(position, xid)
