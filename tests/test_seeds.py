"""What is drawn for a request depends on nothing but what it is drawn from."""

from __future__ import annotations

import pytest

from loadlib.workloads.seeds import digest


def test_a_seed_means_the_same_everywhere():
    """BLAKE2b of 16 bytes over the parts as Python writes them, big-endian."""
    assert f"{digest(42, 'chat', 'm', 7):032x}" == "2909bc59ce92cea025d70877b324311c"


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ((42, "chat", "m", 8), "another request"),
        ((43, "chat", "m", 7), "another seed"),
        ((42, "cha", "tm", 7), "parts are kept apart"),
        ((42, "chat", "m", "7"), "a number is no text"),
    ],
)
def test_other_parts_draw_something_else(other, why):
    assert digest(*other) != digest(42, "chat", "m", 7), why
