"""The messages of a recorded episode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rllib_tag.errors import ConfigError
from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.encoder import team_states
from rllib_tag.nn.network import AdversaryNet
from rllib_tag.playing.games import Games
from rllib_tag.playing.restore import TrainedTeam
from rllib_tag.playing.rollout import record_episode, rollout
from rllib_tag.plugin.env_config import TagEnvConfig

GAME = {"num_class_a": 1, "num_class_b": 2, "max_cycles": 5, "history_length": 2}


def untrained(**options: Any) -> TrainedTeam:
    config = CommConfig(hidden_dim=16, **options)
    first = AdversaryNet(5, config, continuous=False)
    second = AdversaryNet(5, config, continuous=False, encoder=first.encoder if config.encoder == "shared" else None)
    return TrainedTeam({"class_a": first.eval(), "class_b": second.eval()}, GAME, Path("untrained"))


def test_messages_are_those_that_were_sent(tmp_path: Path) -> None:
    team = untrained(encoder="shared", message_dim=6, frame="receiver")
    (path,) = rollout(team, tmp_path, first_seed=5, messages=True)
    recorded = np.load(tmp_path / "episode_5.messages.npz")
    assert recorded["messages"].shape == (6, 2, 3, 6)  # before each of five actions and after the last, in two layers
    assert recorded["messages"].dtype == np.float32
    assert recorded["links"].shape == (6, 3, 3)
    assert recorded["senders"].tolist() == ["adversary_0", "adversary_1", "adversary_2"]
    games = Games(TagEnvConfig(**GAME), [5])
    encoder = team.nets["class_b"].encoder
    nodes, positions, seen = encoder.nodes(team_states(games.states(), None), games.layout)
    first = encoder.graph.convs[0].message(nodes, positions, seen)[0]
    np.testing.assert_allclose(recorded["messages"][0, 0], first.detach().numpy(), atol=1e-6)
    assert path.name == "episode_5.json"


def test_only_who_takes_part_is_recorded() -> None:
    sizes, game = set(), {**GAME, "num_class_a": [0, 3], "num_good": [1, 2], "num_obstacles": [0, 2]}
    for seed in range(20):
        sent: list[np.ndarray] = []
        episode = record_episode(untrained(), seed, game, sent)
        N, y = len(episode["classes"]), len(episode["names"]) - len(episode["classes"])
        sizes.add((N, y, len(episode["landmarks"])))
        first = [f"adversary_{i}" for i in range(N - 2)]  # class A has the first three places
        assert episode["names"] == [*first, "adversary_3", "adversary_4", *(f"agent_{i}" for i in range(y))]
        assert episode["classes"] == [0] * (N - 2) + [1, 1]
        assert np.shape(episode["positions"]) == (6, N + y, 2)
        assert np.abs(episode["positions"]).max() < 3
        assert np.shape(episode["links"]) == np.shape(episode["attention"]) == (6, N, N)
        assert np.stack(sent).shape == (6, 2, N, 16)
        assert list(episode["actions"][0]) == episode["names"][:N]
        assert len(episode["sizes"]) == N + y
        assert len(episode["landmark_sizes"]) == len(episode["landmarks"])
    assert {sizes_of[0] for sizes_of in sizes} == {2, 5}
    assert {sizes_of[1:] for sizes_of in sizes} == {(1, 0), (1, 2), (2, 0), (2, 2)}


def test_a_recording_without_messages_removes_those_of_the_last_one(tmp_path: Path) -> None:
    team = untrained(encoder="shared")
    rollout(team, tmp_path, messages=True)
    rollout(team, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["episode_1000000.json"]


@pytest.mark.parametrize("options", [{"encoder": "class"}, {"encoder": "shared", "gnn_layers": 3}])
def test_messages_that_depend_on_the_receiver_are_not_recorded(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="messages: expected encoder: shared, sequence: history and comm_hops"):
        rollout(untrained(**options), tmp_path, messages=True)
    assert list(tmp_path.iterdir()) == []
