from __future__ import annotations

import pytest

from rllib_tag import ClassPolicyMapping
from rllib_tag.errors import ConfigError


def test_adversaries_and_good_agents_find_their_policies() -> None:
    mapping = ClassPolicyMapping(num_class_a=2, num_class_b=3)
    agents = [*(f"adversary_{i}" for i in range(5)), "agent_0", "agent_7"]
    expected = ["class_a"] * 2 + ["class_b"] * 3 + ["good"] * 2
    assert [mapping(agent, None, worker=None) for agent in agents] == expected


@pytest.mark.parametrize("agent", ["adversary_5", "adversary_x", "wolf_1", ""])
def test_an_agent_of_another_team_is_an_error(agent: str) -> None:
    with pytest.raises(ConfigError, match="Set the mapping's num_class_a and num_class_b to those of env_config"):
        ClassPolicyMapping(2, 3)(agent, None)
