from __future__ import annotations

from typing import Any

import pytest

from rllib_tag.errors import ConfigError
from rllib_tag.world.roster import Roster


def test_names_and_classes_follow_mpe() -> None:
    roster = Roster(3, 2, 2)
    assert roster.adversaries == ("adversary_0", "adversary_1", "adversary_2", "adversary_3", "adversary_4")
    assert roster.classes.tolist() == [0, 0, 0, 1, 1]
    assert roster.members("class_a") == roster.adversaries[:3]
    assert roster.members("class_b") == roster.adversaries[3:]
    assert roster.members("good") == ("agent_0", "agent_1")


@pytest.mark.parametrize(("a", "b"), [(3, 0), (0, 2)])
def test_one_class_may_be_empty(a: int, b: int) -> None:
    assert Roster(a, b, 1).num_adversaries == a + b


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((0, 0, 1), "at least one adversary"),
        ((-1, 2, 1), "num_class_a: expected an integer of at least 0, got -1"),
        ((1, 2.0, 1), "num_class_b: expected an integer"),
        ((1, True, 1), "num_class_b: expected an integer"),
        ((1, 1, 0), "num_good: expected an integer of at least 1, got 0"),
    ],
)
def test_teams_that_make_no_sense(counts: tuple[Any, Any, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Roster(*counts)
