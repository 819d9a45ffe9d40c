"""What a checkpoint does not say about its networks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rllib_tag.experiment.rllib_checkpoints import _complete
from rllib_tag.nn.config import DEFAULTS_OF_0_1, CommConfig
from rllib_tag.nn.weights import build_net


def weights(config: CommConfig, seed: int) -> dict[str, np.ndarray]:
    net = build_net("class_a", config, continuous=False)
    drawn = np.random.default_rng(seed)
    return {f"net.{key}": drawn.random(value.shape) for key, value in net.state_dict().items()}


@pytest.mark.parametrize("given", [{}, {"encoder": "class", "frame": "receiver"}])
@pytest.mark.parametrize("gnn", ["gat", "none"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("frame", ["receiver", "absolute"])
def test_the_weights_tell_what_a_run_left_to_the_defaults(
    frame: str, shared: bool, gnn: str, given: dict[str, Any]
) -> None:
    options = {"hidden_dim": 8, "gnn": gnn, "frame": frame}
    config = CommConfig.from_mapping(options)
    of_class = {"class_a": weights(config, 0), "class_b": weights(config, 0 if shared else 1)}
    prey = {f"net.{key}": value for key, value in build_net("good", config, continuous=False).state_dict().items()}
    spec = SimpleNamespace(config={"env_config": {}, "model": {"custom_model_config": {"gnn": gnn, **given}}})
    _complete("class_a", spec, {**of_class, "good": prey})
    found = {"encoder": "shared" if shared else "class", **({} if gnn == "none" else {"frame": frame})}
    assert spec.config["model"]["custom_model_config"] == {**found, "gnn": gnn, **given}


@pytest.mark.parametrize(("options", "found"), [
    ({}, {"frame": "receiver"}), ({"frame": "absolute"}, DEFAULTS_OF_0_1), ({"gnn": "none"}, {}),
])  # fmt: skip
def test_a_policy_alone(options: dict[str, Any], found: dict[str, str]) -> None:
    spec = SimpleNamespace(config={"env_config": {}, "model": {"custom_model_config": {}}})
    _complete("lone", spec, {"lone": weights(CommConfig.from_mapping({"hidden_dim": 8, **options}), 0)})
    assert spec.config["model"]["custom_model_config"] == found


def test_one_of_three_policies_has_an_encoder_of_its_own() -> None:
    drawn = {name: weights(CommConfig(hidden_dim=8), seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))}
    for name, encoder in (("a", "shared"), ("b", "shared"), ("c", "class")):
        spec = SimpleNamespace(config={"env_config": {}, "model": {"custom_model_config": {}}})
        _complete(name, spec, drawn)
        assert spec.config["model"]["custom_model_config"]["encoder"] == encoder


def test_other_models_are_left_alone() -> None:
    spec = SimpleNamespace(config={"env_config": {}, "model": {"custom_model_config": {}}})
    _complete("class_a", spec, {"class_a": {"layer.weight": np.zeros(3)}})
    assert spec.config["model"]["custom_model_config"] == {}


def test_what_networks_were_before_is_said_of_real_keys() -> None:
    assert CommConfig.from_mapping(DEFAULTS_OF_0_1) == CommConfig(encoder="class", frame="absolute")
