"""Experiment files as a user could write them: hypothesis strategies for all that may stand in one."""

from __future__ import annotations

import copy
import functools
import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st

from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.network import GoodNet
from rllib_tag.nn.weights import Exported, save_exported
from rllib_tag.plugin.env_config import choices_of

# One trial each, or one of them drawn.
GAMES = {
    "comm_range": [{"grid_search": [0, 1.5]}, {"uniform": [0, 2]}, {"choice": ["inf", 1]}],
    "good_policy": [{"choice": ["random", "evasive"]}, {"grid_search": ["evasive", "random"]}],
    "num_obstacles": [{"grid_search": [0, 3]}, {"randint": [1, 4]}],
}
Draw = Callable[..., Any]
GAMMAS = [0.9, 0.99, 1.0]
WRAPPERS = [
    "pettingzoo.utils.wrappers.BaseParallelWrapper",
    {"type": "supersuit.frame_skip_v0", "num_frames": 2},
    {"type": "supersuit.frame_skip_v0", "num_frames": [2, 4]},
    {"type": "supersuit.sticky_actions_v0", "repeat_action_probability": 0.5},
    {"type": "supersuit.delay_observations_v0", "delay": 2},
    "supersuit.clip_reward_v0",
]
SAMPLED = {
    "lr": [{"loguniform": [0.0001, 0.01]}, {"grid_search": [0.001, 0.002]}, {"choice": [0.001, 1]}],
    "entropy_coeff": [{"uniform": [0, 0.01]}, {"grid_search": [0, 0.01]}],
    "clip_param": [{"choice": [0.1, 0.3]}, {"uniform": [0.1, 0.4]}],
    "vf_loss_coeff": [{"loguniform": [0.00001, 1.0]}],
    "seed": [{"grid_search": [1, 2]}, {"randint": [0, 1000]}],
}
METRICS = ["return_adversary_mean", "env_runners/custom_metrics/return_good_min", "env_runners/episode_reward_mean"]
OWN = {
    "lr": st.sampled_from([0, 0.001, {"uniform": [0.001, 0.002]}]),
    "lambda": st.sampled_from([0, 0.4, 1]),
    "clip_param": st.sampled_from([0.1, 0.3]),
    "entropy_coeff": st.sampled_from([0, 0.01]),
    "vf_loss_coeff": st.sampled_from([0.0001, 1]),
    "grad_clip": st.sampled_from([None, 1, 40.0]),
    "explore": st.booleans(),
    "use_gae": st.booleans(),
    "kl_coeff": st.sampled_from([0, 0.2]),
    "exploration_config": st.sampled_from([{"type": "StochasticSampling"}, {}, {"random_timesteps": 0}]),
    "gamma": st.sampled_from(GAMMAS),
}


def some(options: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping with any of some keys."""
    return st.fixed_dictionaries({}, optional=options)


def numbers(smallest: int) -> st.SearchStrategy[int | list[int]]:
    """How many there are of something, or several to draw from."""
    number = st.integers(smallest, 3)
    return number | number | number | st.lists(number, min_size=1, max_size=3, unique=True)


def teams(**more: Any) -> st.SearchStrategy[dict[str, Any]]:
    """What `env_config` may say of a game that is learned or evaluated."""
    return some(
        {
            "num_class_a": numbers(0), "num_class_b": numbers(0), "num_good": numbers(1), "num_obstacles": numbers(0),
            "max_cycles": st.integers(1, 12), "full_observation": st.booleans(),
            "comm_range": st.sampled_from([0, 0.5, 1, 2.5, float("inf"), "inf"]), "comm_hops": st.integers(0, 4),
            "history_length": st.integers(1, 5), "terminate_on_success": st.booleans(),
            "good_policy": st.sampled_from(["random", "evasive"]) | st.builds(frozen_prey),
            **more,
        }
    ).flatmap(_with_samples)  # fmt: skip


def _with_samples(game: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """The game, in a third of all cases with some values that are to be sampled."""
    sampled = some({key: st.sampled_from(values) for key, values in GAMES.items()})
    return st.just(game) | st.just(game) | sampled.map(lambda more: {**game, **more})


@functools.cache
def frozen_prey() -> str:
    """A folder with exported weights of a policy `good`."""
    out = os.path.join(tempfile.mkdtemp(), "prey")
    torch.manual_seed(0)
    save_exported(Exported({"good": GoodNet(5, CommConfig(hidden_dim=8), continuous=False)}, {}), out)
    return out


@st.composite
def networks(draw: Draw) -> dict[str, Any]:
    """`custom_model_config`."""
    heads = draw(st.sampled_from([1, 2, 3]))
    out = draw(
        some(
            {
                "num_layers": st.integers(1, 2), "gnn_layers": st.integers(1, 2),
                "temporal": st.sampled_from(["transformer", "gru", "none"]),
                "gnn": st.sampled_from(["gat", "gatv2", "mean", "none"]),
                "critic": st.sampled_from(["class", "shared", "local"]), "value_scale": st.sampled_from([1, 10, 0.5]),
                "sequence": st.sampled_from(["history", "neighbors"]), "relational": st.booleans(),
            }
        )
    )  # fmt: skip
    if out.get("temporal", "transformer") != "transformer":
        out.pop("sequence", None)
    if out.get("gnn") == "none":
        out.pop("relational", None)
    return {"num_heads": heads, "hidden_dim": 2 * heads * draw(st.integers(1, 4)), **out}


@st.composite
def batches(draw: Draw, run: str) -> dict[str, Any]:
    """Batch sizes that fit each other."""
    runners, envs, steps = (
        draw(st.integers(0, 2)),
        draw(st.integers(1, 3)),
        draw(st.sampled_from([2, 5, 10] if run == "PPO" else [2, 4, 10])),
    )
    size = steps * envs * max(runners, 1) * (draw(st.integers(1, 3)) if run == "PPO" else 4)
    out = {
        "num_env_runners": runners, "num_envs_per_env_runner": envs, "train_batch_size": size,
        "rollout_fragment_length": steps if run != "PPO" else draw(st.sampled_from([steps, "auto"])),
        "minibatch_size": draw(st.integers(1, size)), "num_epochs": draw(st.integers(1, 3)),
    }  # fmt: skip
    if draw(st.booleans()):
        out["batch_mode"] = draw(st.sampled_from(["truncate_episodes", "complete_episodes"]))
    return out


@st.composite
def evaluations(draw: Draw, wrappers: Any) -> dict[str, Any]:
    """All that may be said of evaluation."""
    if draw(st.booleans()):
        return {}
    runners = draw(st.integers(0, 1))
    out = {
        "evaluation_interval": draw(st.integers(1, 3)), "evaluation_num_env_runners": runners,
        "evaluation_duration": draw(st.integers(1, 5)),
        "evaluation_duration_unit": draw(st.sampled_from(["episodes", "timesteps"])),
    }  # fmt: skip
    if runners and draw(st.booleans()):
        out |= {"evaluation_parallel_to_training": True, "evaluation_duration": draw(st.sampled_from(["auto", 3]))}
    if draw(st.booleans()):
        out["evaluation_config"] = draw(
            some(
                {
                    "explore": st.booleans(), "gamma": st.sampled_from(GAMMAS), "seed": st.integers(0, 9),
                    "env_config": teams(wrappers=wrappers), "num_envs_per_env_runner": st.integers(1, 3),
                    "exploration_config": st.just({"type": "StochasticSampling"}), "model": st.just({}),
                    "callbacks": st.just("rllib_tag.TagCallbacks"), "multiagent": st.just({}),
                    "policy_map_capacity": st.integers(3, 9),
                }
            )
        )  # fmt: skip
    return out


@st.composite
def configs(draw: Draw, run: str) -> dict[str, Any]:
    """RLlib's config."""
    wrappers = st.lists(st.sampled_from(WRAPPERS), max_size=2)
    learned = draw(st.booleans())
    game = draw(teams(wrappers=wrappers, continuous_actions=st.booleans(), shaping=st.sampled_from([0, 1, 100.5])))
    if learned:
        game["good_policy"] = "learned"
    if not any(max(choices_of(game.get(key, 2))) for key in ("num_class_a", "num_class_b")):
        game["num_class_b"] = 1
    classes = {key: game[f"num_{key}"] for key in ("class_a", "class_b") if f"num_{key}" in game}
    names = [name for name in ("class_a", "class_b") if max(choices_of(classes.get(name, 2)))] + ["good"] * learned
    gamma = draw(st.sampled_from(GAMMAS))
    if game.get("shaping") and (gamma != 0.99 or draw(st.booleans())):
        game["shaping_gamma"] = gamma
    game["backend"] = draw(st.sampled_from(["auto", "auto", "mpe2"]))
    net = draw(networks())
    if draw(st.booleans()):  # without which policies may not differ
        net["encoder"] = "class"
    if net.get("temporal") in (None, "transformer") and draw(st.booleans()):
        net["gnn"] = {"grid_search": ["gat", "mean"]}
    own = copy.copy(OWN) if run == "PPO" else {key: OWN[key] for key in ("lr", "entropy_coeff", "grad_clip", "explore")}
    if game.get("shaping") or run != "PPO":
        own.pop("gamma", None)
    own["model"] = some({"custom_model_config": networks().map(lambda n: {**n, "hidden_dim": 12, "num_heads": 3})})
    policies: Any = names
    if draw(st.booleans()):
        policies = {name: [None, None, None, draw(some(own))] for name in names}
    multiagent = {
        "policies": policies,
        "policy_mapping_fn": {
            "type": "rllib_tag.ClassPolicyMapping", **{f"num_{key}": value for key, value in classes.items()},
        },
        **draw(
            some(
                {
                    "policies_to_train": st.lists(st.sampled_from(names), min_size=1, unique=True),
                    "policy_map_capacity": st.integers(1, 9), "count_steps_by": st.just("env_steps"),
                    "policy_states_are_swappable": st.just(False),
                }
            )
        ),
    }  # fmt: skip
    out = {
        "framework": "torch", "enable_rl_module_and_learner": False, "enable_env_runner_and_connector_v2": False,
        "env_config": game, "multiagent": multiagent, "gamma": gamma,
        "model": {"custom_model": "rllib_tag.CommModel", "custom_model_config": net},
        **draw(batches(run)), **draw(evaluations(wrappers)),
        **draw(some({"callbacks": st.just("rllib_tag.TagCallbacks"), "grad_clip": OWN["grad_clip"]})),
        **draw(some({"explore": OWN["explore"], "num_gpus": st.just(0)})),
    }  # fmt: skip
    if run == "PPO":
        out |= draw(
            some({"lambda": st.sampled_from([0, 0.4, 1]), "use_kl_loss": st.booleans(), "kl_coeff": OWN["kl_coeff"]})
        )
    for key, values in SAMPLED.items():
        if (run == "PPO" or key != "clip_param") and draw(st.booleans()):
            out[key] = draw(st.sampled_from(values))
    if isinstance(policies, list) and "lr" not in out and draw(st.booleans()):
        out["lr_schedule"] = [[0, 0.001], [1000, 0]]
    return out


@st.composite
def experiments(draw: Draw) -> dict[str, Any]:
    """A file with one experiment."""
    run = draw(st.sampled_from(["PPO", "PPO", "PPO", "APPO", "IMPALA"]))
    config = draw(configs(run))
    metrics = [*METRICS, *(f"env_runners/policy_reward_mean/{name}" for name in config["multiagent"]["policies"])]
    if config.get("evaluation_interval"):
        metrics.append("evaluation/env_runners/episode_reward_mean")
    spec = {
        "run": run, "env": "rllib_tag.TagEnv", "config": config,
        "stop": {"training_iteration": draw(st.integers(1, 500))},
        **draw(
            some(
                {
                    "checkpoint_config": some(
                        {
                            "checkpoint_frequency": st.integers(0, 9), "num_to_keep": st.integers(3, 5),
                            "checkpoint_at_end": st.booleans(), "checkpoint_score_attribute": st.sampled_from(metrics),
                            "checkpoint_score_order": st.sampled_from(["max", "min"]),
                        }
                    ),
                    "max_failures": st.integers(0, 2), "mode": st.sampled_from(["max", "min"]),
                    "metric": st.sampled_from(metrics), "search": st.just({"type": "random"}),
                    "scheduler": st.sampled_from(
                        [
                            {"type": "fifo"}, {"type": "asha", "grace_period": 1}, {"type": "median_stopping"},
                            {"type": "ASHA", "max_t": 700, "reduction_factor": 3},
                            {"type": "asha", "time_attr": "timesteps_total", "max_t": 90000},
                        ]
                    ),
                }
            )
        ),
    }  # fmt: skip
    if draw(st.booleans()):
        spec["stop"][draw(st.sampled_from(metrics))] = draw(st.sampled_from([-5, 0, 300.5]))
    if not isinstance(config.get("seed"), int) and draw(st.booleans()):
        spec["num_samples"] = draw(st.integers(1, 4))
    if ({"scheduler", "search"} & spec.keys()) and "callbacks" not in config and draw(st.integers(0, 9)):
        config["callbacks"] = "rllib_tag.TagCallbacks"
    if run == "PPO" and "lr" not in config and "lr_schedule" not in config and draw(st.booleans()):
        spec["scheduler"] = {
            "type": "pbt", "perturbation_interval": 2,
            "hyperparam_mutations": draw(
                some(
                    {
                        "lr": st.sampled_from([[0.001, 0.002], {"uniform": [0.001, 0.002]}, {"choice": [0.1]}]),
                        "lambda": st.just({"uniform": [0.2, 0.9]}), "num_epochs": st.just({"randint": [1, 4]}),
                    }
                ).filter(bool)
            ),
        }  # fmt: skip
        config["callbacks"] = "rllib_tag.TagCallbacks"
    return {"drawn": spec}
