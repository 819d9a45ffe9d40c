"""Which runs the batched sampler samples, and the reasons given for the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import EXPERIMENTS
from small_runs import small

from rllib_tag import ClassPolicyMapping, TagCallbacks
from rllib_tag.errors import ConfigError
from rllib_tag.experiment.experiment import parse_experiments
from rllib_tag.experiment.sampling import DEFAULT_SAMPLER_ONLY, default_sampler_reason
from rllib_tag.experiment.spec import load_experiments
from rllib_tag.experiment.variant import views
from rllib_tag.plugin.ray_internals import algorithm_defaults
from rllib_tag.training.train import TrainOptions, train


class Watching(TagCallbacks):
    """Has a hook that the batched sampler does not call."""

    def on_episode_step(self, **kwargs: Any) -> None:
        """Would watch."""


class Mapping(ClassPolicyMapping):
    """May map by episode."""


def spec() -> dict[str, Any]:
    return load_experiments(EXPERIMENTS / "tag_ppo.yaml")["tag_ppo"]


def reason(given: dict[str, Any]) -> str | None:
    return default_sampler_reason(given["run"], views(given["run"], given["env"], given["config"]))


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_experiment_is_sampled_on_arrays(path: Path) -> None:
    for given in load_experiments(path).values():
        assert given["config"]["env_config"]["backend"] == "batched"
        assert reason(given) is None


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "mpe2": ({"env_config": {"backend": "mpe2"}}, "backend: mpe2"),
    "wrappers": ({"env_config": {"wrappers": [{"type": "supersuit.frame_skip_v0", "num_frames": 2}]}}, "wrappers"),
    "frames": ({"env_config": {"render_mode": "rgb_array"}}, "render_mode: rgb_array"),
    "evaluation": ({"evaluation_config": {"env_config": {"render_mode": "rgb_array"}}}, "render_mode: rgb_array"),
    "callbacks": ({"callbacks": f"{__name__}.Watching"}, f"callbacks: {__name__}.Watching, which has on_episode_step"),
    "steps": ({"count_steps_by": "agent_steps"}, "count_steps_by: agent_steps"),
    "output": ({"output": "logdir"}, "output: logdir"),
    "gae": ({"use_gae": False}, "use_gae: False"),
    "rewards": ({"clip_rewards": True}, "clip_rewards: True"),
    "exploration": ({"exploration_config": {"type": "EpsilonGreedy"}}, "exploration_config: EpsilonGreedy"),
    "evaluated": ({"evaluation_config": {"clip_rewards": True}}, "clip_rewards: True"),
    "elsewhere": ({"evaluation_config": {"env": "CartPole-v1"}}, "env: CartPole-v1"),
    "own": (
        {"multiagent": {"policies": {"class_a": [None, None, None, {"use_gae": False}], "class_b": [None] * 3 + [{}]}}},
        "use_gae: False",
    ),
    "capacity": ({"multiagent": {"policy_map_capacity": 1}}, "policy_map_capacity: 1"),
    "mapping": (
        {"multiagent": {"policy_mapping_fn": {"type": f"{__name__}.Mapping"}}},
        f"policy_mapping_fn: {__name__}.Mapping",
    ),
    "gpus": ({"num_gpus": 2}, "num_gpus: 2"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_why_a_run_uses_the_default_sampler_is_named(change: str) -> None:
    changes, expected = CHANGES[change]
    given = spec()
    given["config"]["env_config"]["backend"] = "auto"
    for key, value in changes.items():
        if isinstance(value, dict) and key in given["config"]:
            given["config"][key].update(value)
        else:
            given["config"][key] = value
    assert reason(given) == expected
    if change in ("wrappers", "callbacks", "gae"):
        given["config"]["env_config"]["backend"] = "batched"
        with pytest.raises(ConfigError, match="backend: batched: expected a run that the batched sampler supports"):
            parse_experiments({"tag_ppo": given})


def test_another_algorithm_uses_rllibs_default_sampler() -> None:
    given = spec()
    assert reason({**given, "run": "APPO"}) == "run: APPO"
    assert reason({**given, "env": "registered"}) == "env: registered"


def test_variants_sample_alike(tmp_path: Path) -> None:
    given = spec()
    given["config"]["env_config"]["backend"] = {"grid_search": ["batched", "mpe2"]}
    with pytest.raises(
        ConfigError, match="expected variants that the batched sampler supports, got one with backend: mpe2"
    ):
        train({"tag_ppo": given}, TrainOptions(storage_path=str(tmp_path / "out")), lambda *_: None)
    assert not (tmp_path / "out").exists()


def test_keys_are_rllibs() -> None:
    """A key that RLlib renames would no longer be looked at."""
    defaults = vars(algorithm_defaults("PPO"))
    assert set(DEFAULT_SAMPLER_ONLY) <= set(defaults)


def test_a_run_says_how_it_samples(ray_session: None, tmp_path: Path) -> None:
    notes: list[str] = []
    for backend in ("batched", "mpe2"):
        experiments = small("tag_quick", hidden_dim=28)
        experiments["tag_quick"]["config"]["env_config"]["backend"] = backend
        experiments["tag_quick"]["stop"] = {"training_iteration": 1}
        options = TrainOptions(storage_path=str(tmp_path / backend))
        (end,) = train(experiments, options, lambda *_: None, notes.append)
        assert end.result["num_env_steps_sampled"] == 200
        (record,) = (tmp_path / backend / "tag_quick").glob("run_*.json")
        assert json.loads(record.read_text())["sampling"] in notes[-1]
    assert notes == [
        "tag_quick: uses the batched sampler",
        "tag_quick: uses RLlib's default sampler, because of backend: mpe2",
    ]
