"""Makes one measurement in a process of its own, and prints it as one line of JSON.

python experiments/benchmarks/measure.py simulator '{"num_envs": 1024, "num_adversaries": 4, "num_good": 1}'
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
import unittest.mock
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as Ray gives every actor with one CPU; bench.py also tries more
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402

EXPERIMENTS = Path(__file__).parents[1]
Metrics = dict[str, float]


def rate(play: Callable[[], None], units: int, seconds: float = 3.0) -> float:
    """Returns the units per second of a function that is called for some seconds, after a warm-up call."""
    play()
    rounds, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        play()
        rounds += 1
    return rounds * units / (time.perf_counter() - start)


def simulator(num_envs: int, num_adversaries: int, num_good: int) -> Metrics:
    """Returns environment steps per second of `SimpleTagVec` under random actions, resets included."""
    from rllib_tag import SimpleTagVec

    games = SimpleTagVec(num_envs, num_good, num_adversaries, num_obstacles=2, max_cycles=100)
    games.reset(list(range(num_envs)))
    actions = np.random.default_rng(0).integers(5, size=(100, len(games.agents), num_envs))

    def episode() -> None:
        for step in actions:
            games.step(dict(zip(games.agents, step, strict=True)))

    return {"env_steps_per_s": rate(episode, 100 * num_envs)}


def mpe2(num_adversaries: int, num_good: int) -> Metrics:
    """Returns environment steps per second of mpe2's parallel env under random actions, resets included."""
    from mpe2 import simple_tag_v3

    env = simple_tag_v3.parallel_env(
        num_good=num_good, num_adversaries=num_adversaries, num_obstacles=2, max_cycles=100
    )
    actions = np.random.default_rng(0).integers(5, size=(100, num_adversaries + num_good))

    def episode() -> None:
        env.reset(seed=0)
        for step in actions:
            env.step(dict(zip(env.agents, step.tolist(), strict=True)))

    return {"env_steps_per_s": rate(episode, 100)}


def start_ray(cpus: int) -> None:
    """Starts a quiet Ray."""
    import ray

    ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


@contextlib.contextmanager
def two_nodes(cpus: int) -> Iterator[None]:
    """Starts a quiet Ray of two nodes; all CPUs are on the one without this process."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=cpus)
        ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def algorithm(
    batched: bool, env: dict[str, Any], model: dict[str, Any], experiment: str = "tag_ppo", new_api_stack: bool = False,
    **options: Any,
) -> Any:  # fmt: skip
    """Builds RLlib's PPO or `TeamPPO` from a shipped experiment, with some of its values replaced."""
    import ray
    import yaml
    from ray.rllib.algorithms.ppo import PPOConfig
    from torch.utils import deterministic

    from rllib_tag.experiment.new_api_stack import STACK_FLAGS
    from rllib_tag.plugin.new_api_stack.team_ppo import TeamPPOConfig as NewConfig
    from rllib_tag.plugin.old_api_stack.team_ppo import TeamPPOConfig as OldConfig

    # With RLlib's seed, torch would fill new memory with NaN. Ours switches that off, so it is off for both sides here.
    deterministic.fill_uninitialized_memory = False
    if not ray.is_initialized():
        start_ray(2)
    config = yaml.safe_load((EXPERIMENTS / f"{experiment}.yaml").read_text())[experiment]["config"]
    config["env_config"].update(env)
    for key in ("num_class_a", "num_class_b"):
        config["multiagent"]["policy_mapping_fn"][key] = config["env_config"][key]
    config["model"]["custom_model_config"].update(model)
    config.update(dict.fromkeys(STACK_FLAGS, new_api_stack))
    kind = (NewConfig if new_api_stack else OldConfig) if batched else PPOConfig
    return kind().update_from_dict({**config, **options, "env": "rllib_tag.TagEnv"}).build_algo()


def sampling(batched: bool, num_envs: int, model: dict[str, Any]) -> Metrics:
    """Returns the environment steps per second that one env runner samples."""
    steps = 100 * num_envs
    worker = algorithm(
        batched, {}, model, num_env_runners=0, num_envs_per_env_runner=num_envs, rollout_fragment_length=100,
        train_batch_size=steps, minibatch_size=100,
    ).env_runner  # fmt: skip
    return {"env_steps_per_s": rate(lambda: worker.sample(), steps, seconds=6.0)}


def training(batched: bool, iterations: int, env: dict[str, Any], model: dict[str, Any], **options: Any) -> Metrics:
    """Returns environment steps per second of complete iterations after the first, and the return at the end."""
    return timed(algorithm(batched, env, model, **options), iterations - 1)


def timed(trained: Any, iterations: int) -> Metrics:
    """Returns an algorithm's environment steps per second, after a first iteration, and what they cost and brought."""
    trained.train()
    trained._timers.clear()
    start = time.perf_counter()
    result: dict[str, Any] = {}
    for _ in range(iterations):
        result = trained.train()
    seconds = time.perf_counter() - start
    parts = () if trained.config.enable_rl_module_and_learner else ("sample", "learn")
    steps = iterations * trained.config.total_train_batch_size
    metrics = result["env_runners"]["custom_metrics"]
    return {
        "env_steps_per_s": steps / seconds,
        "return": metrics["return_adversary_mean"],
        "links": metrics["mean_links_mean"],
        **{key: trained._timers[key].mean for key in parts},
    }


def scaling(runners: int, nodes: int) -> Metrics:
    """Returns the seconds of an iteration of `tag_ppo.yaml` and its parts, and the pickled bytes of batch and weights.

    With two nodes, the learner is on one and all runners are on the other.
    """
    import ray
    from ray import cloudpickle

    from rllib_tag.plugin.ray_internals import on_each_runner

    if nodes == 2:
        with two_nodes(runners):
            return scaling(runners, 1)
    if not ray.is_initialized():
        start_ray(runners)
    sizes = {"num_env_runners": runners, "num_envs_per_env_runner": 128 // runners}
    trained = algorithm(True, {}, {}, **sizes)
    trained.train()
    trained._timers.clear()
    begun = time.perf_counter()
    for _ in range(3):
        trained.train()
    seconds = (time.perf_counter() - begun) / 3
    batches = on_each_runner(trained, lambda worker: len(cloudpickle.dumps(worker.sample())), local_env_runner=False)
    return {
        "seconds": seconds,
        **{key: trained._timers[key].mean for key in ("sample", "learn", "synch_weights")},
        "env_steps": trained.config.total_train_batch_size,
        "batch_bytes": sum(batches),
        "weights_bytes": len(cloudpickle.dumps(trained.get_weights())),
    }


def learning(env: dict[str, Any], model: dict[str, Any], **options: Any) -> Metrics:
    """Returns the speed of learning, a batch's memory, and GFLOP/s in matrix products.

    Also returns this machine's best GFLOP/s in the precision that the products are in, on all cores as in learning.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from rllib_tag.nn.products import is_low
    from rllib_tag.plugin.old_api_stack import learning as team_learning

    cores = os.cpu_count() or 1
    given = {"num_env_runners": 0, "num_cpus_for_main_process": cores, "train_batch_size": 6400, **options}
    trained = algorithm(True, env, model, **given)
    batch = trained.env_runner.sample()
    memory = sum(part.size_bytes() for part in batch.policy_batches.values())
    alone = unittest.mock.patch.object(team_learning, "mapping", return_value=map)  # only this thread is counted
    with alone, FlopCounterMode(display=False) as counter:
        trained._learn(batch)
    flops = counter.get_total_flops()
    trained._learn(batch)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        trained._learn(batch)
        times.append(time.perf_counter() - start)
    seconds = float(np.median(times))
    torch.set_num_threads(cores)
    low = is_low(trained.get_policy("class_a").model.net.config.precision, torch.device("cpu"))
    square = torch.randn(2048, 2048, dtype=torch.bfloat16 if low else torch.float32)
    best = rate(lambda: square @ square, 2 * 2048**3) / 1e9
    return {
        "env_steps_per_s": batch.env_steps() / seconds,
        "gflop_per_s": flops / seconds / 1e9,
        "matmul_gflop_per_s": best,
        "batch_bytes_per_env_step": memory / batch.env_steps(),
    }


if __name__ == "__main__":
    measured = {f.__name__: f for f in (simulator, mpe2, sampling, training, scaling, learning)}[sys.argv[1]]
    print(json.dumps(measured(**json.loads(sys.argv[2]))), flush=True)
    os._exit(0)  # without Ray's messages at exit
