"""What messages say is read from them, and only from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rllib_tag.errors import ConfigError
from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.network import AdversaryNet
from rllib_tag.playing import probe as probing
from rllib_tag.playing.probe import probe
from rllib_tag.playing.restore import TrainedTeam

GAME = {"num_class_a": 2, "num_class_b": 3, "max_cycles": 20, "history_length": 1, "comm_range": 0}


def untrained(**options: object) -> TrainedTeam:
    config = CommConfig(hidden_dim=32, temporal="none", **options)
    first = AdversaryNet(5, config, continuous=False)
    second = AdversaryNet(5, config, continuous=False, encoder=first.encoder if config.encoder == "shared" else None)
    return TrainedTeam({"class_a": first.eval(), "class_b": second.eval()}, GAME, Path("untrained"))


def test_class_b_says_where_the_prey_is_and_class_a_cannot() -> None:
    """With no links at all: class B's random messages hold what it sees, and nothing tells class A."""
    found = {(row["class"], row["layer"]): row for row in probe(untrained())}
    assert set(found) == {(name, layer) for name in ("class_a", "class_b") for layer in (1, 2)}
    assert found["class_b", 1]["r2_position"] > 0.9
    assert found["class_b", 1]["r2_velocity"] > 0.5
    assert all(found["class_a", layer]["r2_position"] < 0.3 for layer in (1, 2))


def test_a_team_without_learned_messages_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "play", None)  # nothing is played before
    with pytest.raises(ConfigError, match="probe: expected encoder: shared"):
        probe(untrained(encoder="class"))
