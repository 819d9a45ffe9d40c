"""Prints environment steps per second, as JSON, of BenchMARL's MAPPO with GATv2 on VMAS `simple_tag`."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import Any

import torch_geometric
from benchmarl.algorithms import MappoConfig
from benchmarl.environments import VmasTask
from benchmarl.experiment import Callback, Experiment, ExperimentConfig
from benchmarl.models import GnnConfig, MlpConfig, SequenceModelConfig
from torch import nn


class Clock(Callback):
    """Notes when each batch has been collected; the first iteration is a warm-up."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def on_batch_collected(self, batch: Any) -> None:
        """Notes the time."""
        self.times.append(time.perf_counter())


def main(batch: int, num_envs: int, minibatch: int, epochs: int, hidden_dim: int, iterations: int) -> None:
    """Trains the four adversaries only; the prey acts by an untrained policy."""
    task = VmasTask.SIMPLE_TAG.get_from_yaml()
    task.config.update(max_steps=100, num_good_agents=1, num_adversaries=4, num_landmarks=2)
    config = ExperimentConfig.get_from_yaml()
    config.max_n_iters, config.max_n_frames = iterations + 1, None
    config.on_policy_collected_frames_per_batch, config.on_policy_n_envs_per_worker = batch, num_envs
    config.on_policy_minibatch_size, config.on_policy_n_minibatch_iters = minibatch, epochs
    config.prefer_continuous_actions, config.evaluation, config.render = False, False, False
    config.loggers, config.create_json, config.lr = [], False, 1e-3
    config.save_folder = tempfile.mkdtemp()
    mlp = {"activation_class": nn.ReLU, "layer_class": nn.Linear}
    actor = SequenceModelConfig(
        model_configs=[
            GnnConfig(
                topology="full", self_loops=True, gnn_class=torch_geometric.nn.conv.GATv2Conv,
                gnn_kwargs={},
            ),
            MlpConfig(num_cells=[hidden_dim], **mlp),
        ],
        intermediate_sizes=[hidden_dim],
    )  # fmt: skip
    clock = Clock()
    experiment = Experiment(
        task=task, algorithm_config=MappoConfig.get_from_yaml(), model_config=actor,
        critic_model_config=MlpConfig(num_cells=[hidden_dim, hidden_dim], **mlp), seed=0, config=config,
        callbacks=[clock],
    )  # fmt: skip
    experiment.train_group_map = {"adversary": experiment.group_map["adversary"]}
    experiment.run()
    # From one collected batch to the next, there is one round of learning and one of collecting.
    seconds = clock.times[-1] - clock.times[0]
    print(json.dumps({"env_steps_per_s": batch * (len(clock.times) - 1) / seconds}))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
