"""Teams whose policies are not one for each class are trained, written, read and played like all others."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mappings
import numpy as np
import pytest
import torch
from small_runs import run, small

from rllib_tag import TagEnv, evaluate, restore
from rllib_tag.errors import ConfigError
from rllib_tag.nn.weights import MANIFEST, build_net
from rllib_tag.playing.restore import export
from rllib_tag.playing.rollout import rollout
from rllib_tag.playing.transfer import transfer

AGENTS = [f"adversary_{i}" for i in range(4)]
MAPPINGS = {mappings.OnePolicy: ["hunters", "prey"], mappings.OnePerAgent: [*AGENTS, "agent_0"]}


@pytest.fixture(scope="module", params=list(MAPPINGS), ids=lambda mapping: mapping.__name__)
def own(request: pytest.FixtureRequest, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An export of a team that was trained with a mapping of its own."""
    folder = tmp_path_factory.mktemp("own")
    experiments = small("tag_selfplay")
    config = experiments["tag_selfplay"]["config"]
    config["env_config"].update(max_cycles=20)
    config["multiagent"] = {
        "policies": MAPPINGS[request.param],
        "policy_mapping_fn": {"type": f"mappings.{request.param.__name__}"},
    }
    config.update(rollout_fragment_length=20, train_batch_size=40, minibatch_size=40)
    config["env_config"]["backend"] = "auto"
    return export(run(experiments, folder).folder, folder / "export")


def test_an_export_says_who_acts_by_which_policy(own: Path) -> None:
    team = restore(own)
    acting = json.loads((own / MANIFEST).read_text())["acting"]
    assert acting == team.acting
    assert acting.keys() == {*AGENTS, "agent_0"}
    assert set(acting.values()) == team.nets.keys()
    for agent, policy in acting.items():
        assert policy == ("hunters" if agent != "agent_0" else "prey") or policy == agent


def test_it_plays_under_every_command(own: Path, tmp_path: Path) -> None:
    result = evaluate(own, episodes=2, baselines=["random"], messages=["cut", "delay:1"], beside={"other": own})
    summary = result.summary()
    assert summary["other"]["return_adversary"] == summary["team"]["return_adversary"]
    assert {row["policy"] for row in result.influence} == {"class_a", "class_b"}
    (episode,) = rollout(own, tmp_path)
    assert np.array(json.loads(episode.read_text())["attention"]).shape == (21, 4, 4)


def test_every_agent_acts_by_its_own_policy(own: Path) -> None:
    team = restore(own)
    for i, net in enumerate(team.nets.values()):  # the i-th policy takes action i
        with torch.no_grad():
            net.actor[-1].weight.zero_()
            net.actor[-1].bias.copy_(torch.eye(5)[i])
    expected = {agent: list(team.nets).index(policy) for agent, policy in (team.acting or {}).items()}
    env, actions = TagEnv({**team.env_config, "max_cycles": 1}), {}
    seen, _ = env.reset(seed=0)
    for name in ("class_a", "class_b", "good"):
        for policy, places in team.parts(env.roster, name):
            for place in places:
                agent = env.roster.members(name)[place]
                rows = {key: value[None] for key, value in seen[agent].items()}
                actions[agent] = team.actions(policy, rows)[0]
    assert actions == expected


def test_on_other_teams_a_class_acts_as_it_shared(own: Path) -> None:
    team = restore(own)
    one_policy = "hunters" in team.nets
    if one_policy:
        assert len(evaluate(team, episodes=1, num_class_a=3, num_class_b=0, max_cycles=3).rows) == 1
        assert transfer(team, largest=1, episodes=1)
        return
    assert [parts for parts in team.parts(TagEnv({"num_class_a": 2, "num_class_b": 1}).roster, "class_b")] == [
        ("adversary_2", [0])
    ]
    with pytest.raises(ConfigError, match="got one that needs 'class_a' for adversary_2"):
        evaluate(team, episodes=1, num_class_a=3)


def test_trained_prey_of_any_name_is_good_policy(own: Path) -> None:
    assert TagEnv({"good_policy": str(own)}).reset(seed=0)


@pytest.mark.parametrize("acting", [{}, {"adversary_0": ["x"]}, {"adversary_0": "nobody"}, 3])
def test_a_manifest_that_does_not_say_who_acts_is_refused(own: Path, acting: Any, tmp_path: Path) -> None:
    copy = shutil.copytree(own, tmp_path / "copy")
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps({**manifest, "acting": acting}))
    with pytest.raises(ConfigError, match="expected each agent's policy under 'acting'"):
        restore(copy)


def test_figures_of_a_class_are_means_over_those_that_have_them(own: Path) -> None:
    team = restore(own)
    first = next(iter(team.nets))
    deaf = build_net("class_a", dataclasses.replace(team.nets[first].config, gnn="none"), False).eval()
    mixed = dataclasses.replace(team, nets={**team.nets, first: deaf})
    rows = evaluate(mixed, episodes=1, messages=["cut"], max_cycles=1).influence
    whole = evaluate(team, episodes=1, messages=["cut"], max_cycles=1).influence
    if first == "hunters":
        assert all("attention_entropy" not in row for row in rows)
    else:  # of adversary_0 and adversary_1, only the second has graph layers
        assert rows[0]["attention_entropy_uniform"] > 0
        assert rows[0]["heard"] == whole[0]["heard"]
        assert rows[1] == whole[1]
