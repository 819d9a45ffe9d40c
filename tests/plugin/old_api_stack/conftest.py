"""Small algorithms in this process, sampled on arrays and by RLlib's default sampler."""

from __future__ import annotations

import copy
from typing import Any

import yaml
from conftest import EXPERIMENTS
from ray.rllib.algorithms import Algorithm, AlgorithmConfig
from ray.rllib.algorithms.ppo import PPOConfig

from rllib_tag.plugin.old_api_stack.runner import TagRunner
from rllib_tag.plugin.old_api_stack.sampler import BatchedSampler
from rllib_tag.plugin.old_api_stack.team_ppo import TeamPPOConfig

NUM_ENVS, CYCLES, FRAGMENT = 3, 7, 5
OLD_STACK = dict.fromkeys(("enable_rl_module_and_learner", "enable_env_runner_and_connector_v2"), False)
RUNNERS = {True: BatchedSampler, False: TagRunner}


def build(
    batched: bool, env_config: dict[str, Any], kind: type[AlgorithmConfig] = PPOConfig, **options: Any
) -> Algorithm:
    """An algorithm in this process, small, greedy so that both ways act alike, with an encoder for each class."""
    config = small_config(env_config, **options)
    built = (TeamPPOConfig if batched else kind)().update_from_dict({"env": "rllib_tag.TagEnv", **OLD_STACK, **config})
    return getattr(built, "build_algo", built.build)()


def small_config(env_config: dict[str, Any], **options: Any) -> dict[str, Any]:
    """A shipped config with small games, batches and networks; no flags of the API stack."""
    config = yaml.safe_load((EXPERIMENTS / "tag_ppo.yaml").read_text())["tag_ppo"]["config"]
    for flag in OLD_STACK:
        del config[flag]
    config["env_config"].update({"max_cycles": CYCLES, "comm_range": 0.8, **env_config})
    model = {"hidden_dim": 28, "encoder": "class", "precision": "float32", **options.pop("model", {})}
    config["model"]["custom_model_config"].update(model)
    game = config["env_config"]
    config["multiagent"]["policy_mapping_fn"].update({key: game[key] for key in ("num_class_a", "num_class_b")})
    config["multiagent"]["policies"] = options.pop("policies", ["class_a", "class_b"])
    if "lr_schedule" not in options:
        config["lr"] = config.pop("lr_schedule")[1][1]  # after the batch of warm-up
    config.update(
        num_env_runners=0, num_envs_per_env_runner=NUM_ENVS, rollout_fragment_length=FRAGMENT,
        train_batch_size=NUM_ENVS * FRAGMENT, minibatch_size=12, num_epochs=2, explore=False,
    )  # fmt: skip
    return {**config, **copy.deepcopy(options)}
