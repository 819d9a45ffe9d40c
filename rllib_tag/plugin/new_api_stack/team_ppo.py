"""PPO on RLlib's new API stack that samples on arrays and encodes each team state only once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo.ppo import PPO, PPOConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.policy.sample_batch import MultiAgentBatch, concat_samples
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    EVALUATION_RESULTS,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)
from ray.tune.result import TIMESTEPS_TOTAL

from rllib_tag.errors import check_keys
from rllib_tag.nn.weights import MANIFEST, load_exported
from rllib_tag.plugin.callbacks import EPISODES
from rllib_tag.plugin.class_paths import env_class
from rllib_tag.plugin.env import CommEnv
from rllib_tag.plugin.env_config import EnvConfig, agents_per_step, groups_of
from rllib_tag.plugin.exact_resume import ResumesExactly
from rllib_tag.plugin.mapping import ClassPolicyMapping
from rllib_tag.plugin.new_api_stack.learner import BEFORE, CommLearner
from rllib_tag.plugin.new_api_stack.module import COMM_HOPS, NET, CommModule, CommModules
from rllib_tag.plugin.new_api_stack.runner import GuardedEnvRunner, TeamEnvRunner
from rllib_tag.plugin.ray_internals import (
    forget_weights,
    is_of_new_api_stack,
    old_learning_states,
    on_each_runner,
    policy_specs,
    synchronous_parallel_sample,
)
from rllib_tag.plugin.team_rows import minibatches_per_epoch, standardize_advantages

Recent = dict[tuple[str, ...], list[float]]  # numbers of episodes, by their keys in results


class TeamPPOConfig(PPOConfig):
    """RLlib's PPO config with the networks of this project, and `TeamEnvRunner` as the env runner.

    Modules are `CommModule`s, whose `custom_model_config` is given with `rl_module(model_config=…)`. Without
    `multi_agent(…)`, each class of the game is a module. `env_runners(env_runner_cls=GuardedEnvRunner)` samples in
    RLlib's own way.

    Examples:
        >>> from rllib_tag import TagEnv
        >>> config = (
        ...     TeamPPOConfig()
        ...     .environment(TagEnv, env_config={"num_class_a": 1, "num_class_b": 2})
        ...     .rl_module(model_config={"custom_model_config": {"hidden_dim": 16}})
        ...     .env_runners(num_env_runners=0, num_envs_per_env_runner=4, rollout_fragment_length=50)
        ...     .training(train_batch_size_per_learner=200, minibatch_size=100, num_epochs=1)
        ... )
        >>> config.validate()
        >>> sorted(config.policies)
        ['class_a', 'class_b']
    """

    policy_mapping_fn: Callable[..., str]

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or TeamPPO)
        self.env_runner_cls = TeamEnvRunner

    def update_from_dict(self, config_dict: dict[str, Any]) -> TeamPPOConfig:
        """Takes over keys of a config, also those of the old API stack that have another name or meaning here.

        `model` is `rl_module(model_config=…)`, and a policy's own config that of a module. `train_batch_size`,
        `minibatch_size` and `num_gpus` are divided among the learners. In `lr_schedule` and `entropy_coeff_schedule`,
        agent steps become env steps.

        Raises:
            ConfigError: If `model` has keys that no `CommModule` reads.
        """
        given = dict(config_dict)
        env = given.get("env", self.env)
        game = {**self.env_config, **given.get("env_config", {})}
        learners = given.get("num_learners", self.num_learners) or 1
        if env is not None:
            given["env"] = env_class("env", env) or env
        model = given.pop("model", None)
        if model is not None:
            check_keys("config: model", model, ("custom_model", NET))
            self.rl_module(model_config={NET: model.get(NET, {})})
        for old, new in (("lr_schedule", "lr"), ("entropy_coeff_schedule", "entropy_coeff")):
            schedule = given.pop(old, None)
            if schedule is not None:
                agents = agents_per_step(game)
                given[new] = [[round(step / agents), value] for step, value in schedule]
        policies = given.get("multiagent", {}).get("policies")
        if isinstance(policies, dict):
            own = {name: spec.config for name, spec in policy_specs(policies).items() if spec.config}
            self.multi_agent(algorithm_config_overrides_per_module=own)
            given["multiagent"] = {**given["multiagent"], "policies": list(policies)}
        if "train_batch_size" in given:
            given["train_batch_size_per_learner"] = given.pop("train_batch_size") // learners
        if given.get("minibatch_size"):
            given["minibatch_size"] = max(1, given["minibatch_size"] // learners)
        if "num_gpus" in given:
            given["num_gpus_per_learner"] = given.pop("num_gpus") / learners
        super().update_from_dict(given)
        return self

    def validate(self) -> None:
        """Checks the config, in which the classes of the game are modules unless it says otherwise."""
        self._map_classes()
        super().validate()
        for name in self.algorithm_config_overrides_per_module:
            self.get_config_for_module(name)  # RLlib keeps it, and could not make it once this config is frozen

    def _map_classes(self) -> None:
        """Binds the mapping to the game, because RLlib's new API stack does not pass it a worker."""
        kind = env_class("env", self.env)
        if kind is None or not issubclass(kind, CommEnv):
            return
        if not self.is_multi_agent:
            classes = list(dict.fromkeys(groups_of(self.env_config).values()))
            self.multi_agent(policies=classes, policy_mapping_fn=ClassPolicyMapping())
        if type(self.policy_mapping_fn) is ClassPolicyMapping:
            self.policy_mapping_fn = ClassPolicyMapping.of(groups_of(self.env_config))

    def get_default_learner_class(self) -> type[CommLearner]:
        """Returns `CommLearner`."""
        return CommLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Returns the specification of a `CommModule`."""
        return RLModuleSpec(module_class=CommModule)

    def get_multi_rl_module_spec(self, **kwargs: Any) -> MultiRLModuleSpec:
        """Returns the specification of `CommModules`, which say how many links a message crosses."""
        spec = super().get_multi_rl_module_spec(**kwargs)
        spec.multi_rl_module_class = CommModules
        hops = self.env_config.get(COMM_HOPS, EnvConfig.comm_hops)
        for name, each in spec.rl_module_specs.items():
            own = name in self.algorithm_config_overrides_per_module or not each.model_config
            given = self.get_config_for_module(name).model_config if own else each.model_config
            each.model_config = {**given, COMM_HOPS: hops}
        return spec

    def get_evaluation_config_object(self) -> AlgorithmConfig | None:
        """Returns the evaluation config, in which RLlib's own way of sampling plays whole episodes."""
        config = super().get_evaluation_config_object()
        if config is not None:
            config._map_classes()
            if config.env_runner_cls is TeamEnvRunner:
                config.env_runner_cls = GuardedEnvRunner
        return config


class TeamPPO(ResumesExactly, PPO):
    """RLlib's PPO, which can also learn from rows of team states, sampled by `TeamEnvRunner`."""

    def setup(self, config: AlgorithmConfig) -> None:
        """Builds the algorithm."""
        self._recent: Recent = {}
        super().setup(config)

    @classmethod
    def get_default_config(cls) -> AlgorithmConfig:
        """Returns `TeamPPOConfig`."""
        return TeamPPOConfig()

    def step(self) -> dict[str, Any]:
        """Runs one iteration; its result also has the old API stack's names of steps and episodes.

        As there, training's metrics cover the iteration's episodes and, if these are fewer than
        `metrics_num_episodes_for_smoothing`, earlier ones; evaluation's metrics cover all of its episodes.
        """
        result = super().step()
        steps = int(result.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0))  # RLlib adds them up as floats
        result[TIMESTEPS_TOTAL] = result[NUM_ENV_STEPS_SAMPLED] = steps
        _report(result.get(ENV_RUNNER_RESULTS, {}), self._recent, self.config.metrics_num_episodes_for_smoothing)
        _report(result.get(EVALUATION_RESULTS, {}).get(ENV_RUNNER_RESULTS, {}), {}, 0)
        return result

    def get_recent(self) -> Recent:
        """Returns the numbers of the most recent episodes."""
        return self._recent

    def set_recent(self, recent: Recent) -> None:
        """Takes over what `get_recent` returned."""
        self._recent = recent

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Restores a checkpoint, or starts from one of the old API stack or from exported weights.

        Of the old API stack's checkpoints, it takes weights and optimizer moments, and counts from 0.
        """
        folder = Path(checkpoint_dir)
        if is_of_new_api_stack(folder):
            super().load_checkpoint(checkpoint_dir)
        elif (folder / MANIFEST).exists():
            nets = load_exported(folder).nets.items()
            self._start_from({name: ({f"net.{k}": v for k, v in net.state_dict().items()}, []) for name, net in nets})
        else:
            self._start_from(old_learning_states(folder))
        # RLlib silently drops weights for a runner whose reply to earlier ones, such as the first, it has not read, and
        # a runner ignores weights that are older than its own.
        self.env_runner_group.fetch_ready_async_reqs(tags="set_state", timeout_seconds=None)
        on_each_runner(self, forget_weights)
        self._sync_weights()

    def training_step(self) -> None:
        """Samples a train batch, learns from it, and sends the weights to the env runners."""
        if not issubclass(self.config.env_runner_cls, TeamEnvRunner):
            super().training_step()
            return
        config = self.config
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            sampled, results = synchronous_parallel_sample(
                worker_set=self.env_runner_group, max_env_steps=config.total_train_batch_size,
                sample_timeout_s=config.sample_timeout_s, _uses_new_env_runners=True, _return_metrics=True,
            )  # fmt: skip
            if not sampled:  # all runners failed and are being restarted
                return
            self.metrics.aggregate(results, key=ENV_RUNNER_RESULTS)
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            batch = standardize_advantages(concat_samples(sampled))
            learners = max(1, config.num_learners)
            shards = _shards(batch, learners)
            steps = self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME))
            learned = self.learner_group.update(
                **({"batches": shards} if self.learner_group.is_remote else {"batch": batch}),
                timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: steps, BEFORE: steps - batch.env_steps()},
                num_epochs=config.num_epochs,
                num_minibatches=minibatches_per_epoch(shards[-1].policy_batches, config.minibatch_size),
                shuffle_seed=(config.seed or 0, int(steps)),
            )
            self.metrics.aggregate(learned, key=LEARNER_RESULTS)
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            self._sync_weights()

    def _start_from(self, policies: Mapping[str, Any]) -> None:
        for result in self.learner_group.foreach_learner(lambda learner: learner.start_from(policies)):
            if not result.ok:
                raise result.get()

    def _sync_weights(self) -> None:
        self.env_runner_group.sync_weights(from_worker_or_learner_group=self.learner_group, inference_only=True)


def _report(played: dict[str, Any], recent: Recent, at_least: int) -> None:
    """Replaces the numbers of episodes in results by their means, minima and maxima.

    Args:
        played: The results of env runners.
        recent: The numbers of the most recent episodes, by their keys in results; it is brought up to date.
        at_least: How many episodes to report on, if there have been as many.
    """
    logged = played.pop(EPISODES, {})
    custom = logged.pop("custom_metrics", {})
    series: dict[tuple[str, ...], Any] = {(key,): values for key, values in logged.items()}
    series |= {("custom_metrics", key): values for key, values in custom.items()}
    for path in {**recent, **series}:
        new = series.get(path)
        new = list(new) if isinstance(new, (list, tuple)) else []  # RLlib reports NaN where there was none
        before = recent.get(path, [])
        values = [*before[max(0, len(before) - max(0, at_least - len(new))) :], *new]
        recent[path] = [*before, *new][-at_least:]
        place = played.setdefault("custom_metrics", {}) if len(path) > 1 else played
        for kind, reduced in (("mean", np.mean), ("min", np.min), ("max", np.max)):
            if values:
                place[f"{path[-1]}_{kind}"] = float(reduced(values))
    for kind in ("mean", "min", "max"):
        if f"episode_return_{kind}" in played:
            played[f"episode_reward_{kind}"] = played[f"episode_return_{kind}"]


def _shards(batch: MultiAgentBatch, count: int) -> list[MultiAgentBatch]:
    """Splits a batch's rows into parts of nearly equal size, the largest first."""
    parts = batch.policy_batches
    rows = len(next(iter(parts.values())))
    return [
        MultiAgentBatch({name: part[chosen[0] : chosen[-1] + 1] for name, part in parts.items()}, batch.count // count)
        for chosen in np.array_split(np.arange(rows), count)
    ]
