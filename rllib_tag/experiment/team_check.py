"""Checks runs with `CommEnv` or `CommModel`, in training and in evaluation, for every policy."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rllib_tag.errors import ConfigError, raised, under
from rllib_tag.experiment.variant import View, is_comm
from rllib_tag.nn.config import ARCHITECTURE, CommConfig
from rllib_tag.plugin.env import CommEnv, TagEnv
from rllib_tag.plugin.env_config import TagEnvConfig
from rllib_tag.plugin.mapping import ClassPolicyMapping, acting_policies
from rllib_tag.plugin.prey import OwnPrey
from rllib_tag.world.game import Arrays
from rllib_tag.world.streams import Streams
from rllib_tag.world.team_games import TeamGames

TRIAL_GAMES, TRIAL_STEPS = 8, 50  # played in a custom or wrapped game before any worker starts
# Values that the model or a restored team relies on.
FIXED: dict[str, tuple[Any, str]] = {
    "framework": ("torch", "the model is a TorchModelV2"),
    "observation_filter": ("NoFilter", "masks and links must not be rescaled"),
    "normalize_actions": (True, "restored teams rely on it"),
    "input": ("sampler", "this project samples its own data"),
}
FIXED_MODEL: dict[str, tuple[Any, str]] = {
    "use_lstm": (False, "the model reads histories itself"),
    "use_attention": (False, "the model reads histories itself"),
    "_disable_preprocessor_api": (False, "the model reads the preprocessor's output"),
}
# Parts of the model that all class policies can share, and the keys on which these policies must then agree.
SHARED = {
    "encoder": [field.name for field in dataclasses.fields(CommConfig) if field.name not in ("critic", "value_scale")],
    "critic": ["hidden_dim", "precision"],
}

UPDATES = ("lr", "lr_schedule", "grad_clip")  # of RLlib; how a policy updates a shared encoder


def check_team(training: View, evaluation: View | None) -> CommEnv | None:
    """Checks that the environment, the policies and the model fit together.

    Args:
        training: What the training workers get.
        evaluation: What the evaluation workers get; None if it is the same.

    Returns:
        The training environment, if it is a `CommEnv`.

    Raises:
        ConfigError: On the first value that does not fit.
    """
    for view in (training, evaluation):
        if view is not None and view.is_ours:
            for what, config in _configs(view):
                _check_values(what, config)
    team = _build_team(training)
    if team is None:
        if evaluation is not None and _build_team(evaluation) is not None:
            raise ConfigError(
                "config: evaluation_config: env: expected the same kind of environment as in training, got one of this "
                "project. Leave it out."
            )
        return None
    for what, config in _configs(training):
        _check_model(what, config)
    acting = _acting(training, team)
    _check_training(training, team, acting)
    if evaluation is not None:
        for what, config in _configs(evaluation):
            _check_model(what, config)
        _check_evaluation(training, team, evaluation)
    return team


def comm_config(what: str, config: AlgorithmConfig) -> CommConfig:
    """Returns the `CommConfig` that a config gives `CommModel`.

    Raises:
        ConfigError: If a value does not fit.
    """
    with under(f"{what}: model"):
        return CommConfig.from_mapping({**config.model["custom_model"].defaults, **config.model["custom_model_config"]})


def _configs(view: View) -> Iterator[tuple[str, AlgorithmConfig]]:
    """Yields a view's configs with what messages call them; a policy's only if it has values of its own."""
    yield view.what, view.config
    for name, config in view.policies.items():
        if config is not view.config:
            yield view.what_of(name), config


def _check_values(what: str, config: AlgorithmConfig) -> None:
    for where, given, fixed in ((what, config, FIXED), (f"{what}: model", config.model, FIXED_MODEL)):
        for key, (value, reason) in fixed.items():
            if given[key] != value:
                raise ConfigError(f"{where}: {key}: expected {value}, got {given[key]!r}: {reason}. Leave it out.")
    if is_comm(config.model["custom_model"]):
        comm = comm_config(what, config)
        for part in SHARED:
            if getattr(comm, part) == "shared" and config.num_gpus > 1:
                raise ConfigError(
                    f"{what}: {part}: shared: expected at most one GPU for the learner, got num_gpus: "
                    f"{config.num_gpus}; RLlib keeps a copy of the model on each. Set num_gpus: 1 or {part}: class."
                )


def try_game(view: View) -> None:
    """Plays some steps of a view's game if it runs custom code.

    Raises:
        ConfigError: If the game cannot be played.
    """
    env = _build_team(view)
    if env is None or _custom_part(view) is None:
        return
    if isinstance(env.config, TagEnvConfig) and isinstance(env.config.prey, OwnPrey):
        with _as_refusal(view, "good_policy"):
            _check_script(env.config, env.config.prey)
    with _as_refusal(view):
        env.reset(seed=0)
        for _ in range(TRIAL_STEPS):
            if not env.agents:
                env.reset()
            env.step({agent: env.action_spaces[agent].sample() for agent in env.agents})
    env.close()


def _check_script(config: TagEnvConfig, script: OwnPrey) -> None:
    """Checks that a script moves each prey by what it observes, whoever is moved in the same call or was before.

    Raises:
        ConfigError: If it does not.
    """
    played: list[tuple[Arrays, np.ndarray]] = []

    def recorded(observations: Arrays) -> np.ndarray:
        actions = script(observations)
        played.append((observations, actions))
        return actions

    game = dataclasses.replace(config.game, prey=recorded)
    games = TeamGames(game, game.batched(TRIAL_GAMES), comm_range=1.0, history_length=1)
    games.reset(range(TRIAL_GAMES))
    streams = Streams(TRIAL_GAMES)
    for _ in range(TRIAL_STEPS):
        actions = streams.random_actions(len(game.team), config.continuous_actions)
        games.step({agent: actions[:, i] for i, agent in enumerate(game.team)})
    for observations, moved in played[:: TRIAL_STEPS // 5]:
        for i, action in enumerate(moved):
            alone = script({key: value[i : i + 1] for key, value in observations.items()})[0]
            if not np.allclose(action, alone, rtol=0, atol=1e-4):
                raise ConfigError(
                    "env_config: good_policy: expected an action that depends only on that prey's own observation, "
                    f"got {action} among other prey and {alone} for the same row alone, later. Let act keep nothing, "
                    "draw nothing at random, and compute each row by itself."
                )


def _custom_part(view: View) -> str | None:
    """Returns the key of `env_config` whose custom code a view's game runs; None if it runs none."""
    config = view.config.env_config
    if config.get("wrappers"):
        return "wrappers"
    if isinstance(config.get("good_policy"), Mapping):
        return "good_policy"
    return None if view.comm is not None and issubclass(view.comm, TagEnv) else "game"


def _build_team(view: View) -> CommEnv | None:
    """Builds a view's environment."""
    if view.comm is None:
        return None
    with _as_refusal(view):
        return view.comm(view.config.env_config)


@contextlib.contextmanager
def _as_refusal(view: View, part: str | None = None) -> Iterator[None]:
    """Turns whatever a part of a view's game raises into a `ConfigError`. Default: the part that is custom."""
    with under(view.what):
        try:
            yield
        except ConfigError:
            raise
        except Exception as error:
            what = part or _custom_part(view) or "game"
            noun, does = ("script", "can move prey") if what == "good_policy" else ("game", "can be played")
            raise ConfigError(
                f"env_config: {what}: expected a {noun} that {does}, got {raised(error)}. Correct the {noun}."
            ) from error


def _check_model(what: str, config: AlgorithmConfig) -> None:
    if config.model["custom_model"] is None:
        raise ConfigError(f"{what}: model: expected custom_model: rllib_tag.CommModel, got none. Add it.")


def _acting(view: View, team: CommEnv) -> dict[str, str]:
    """Returns the policy that each agent acts by."""
    what = f"{view.what}: multiagent: policy_mapping_fn"
    mapping = view.config.policy_mapping_fn
    if not isinstance(mapping, ClassPolicyMapping):
        raise ConfigError(
            f"{view.what}: multiagent: expected policy_mapping_fn: {{type: rllib_tag.ClassPolicyMapping, …}} or a "
            "subclass of it, got none. Add it."
        )
    try:
        acting = acting_policies(view.config, team)
        unknown = sorted(set(acting.values()) - set(view.policies))
    except ConfigError:
        raise
    except Exception as error:  # a custom mapping may raise anything
        raise ConfigError(
            f"{what}: expected a policy for each of {', '.join(team.possible_agents)}, got {raised(error)}. "
            "Map each of them."
        ) from error
    if unknown and view.config.in_evaluation:
        raise ConfigError(
            f"{view.what}: env_config: expected a game for the run's policies, {', '.join(view.policies)}, got one in "
            f"which agents act by {', '.join(unknown)}, which it does not train. Change the game."
        )
    spaces: dict[str, Any] = {}
    for agent, policy in acting.items():
        if team.observation_spaces[agent] != spaces.setdefault(policy, team.observation_spaces[agent]):
            raise ConfigError(
                f"{what}: expected the same observation space for all agents of {policy!r}, got different ones. Give "
                "them policies of their own."
            )
    return acting


def _check_training(view: View, team: CommEnv, acting: dict[str, str]) -> None:
    mapping, game = view.config.policy_mapping_fn, team.config
    if isinstance(game, TagEnvConfig):
        ours = (mapping.roster.num_class_a, mapping.roster.num_class_b)
        theirs = (game.roster.num_class_a, game.roster.num_class_b)
        if ours != theirs:
            raise ConfigError(
                f"config: policy_mapping_fn and env_config disagree on (num_class_a, num_class_b): expected {theirs} "
                f"as in env_config, got {ours}. Make them equal."
            )
    needed = set(acting.values())
    if needed != set(view.policies):
        raise ConfigError(
            f"config: multiagent: policies: expected exactly those that the agents use, {sorted(needed)}, "
            f"got {sorted(view.policies)}. Name these."
        )
    of_team = {acting[agent] for agent in team.games.game.team}
    trained = of_team if view.config.policies_to_train is None else of_team & set(view.config.policies_to_train)
    for policy in sorted(trained):
        config = view.policies[policy]
        if game.shaping and game.shaping_gamma != config.gamma:
            whose = "" if config is view.config else f" of {policy}"
            raise ConfigError(
                f"config: env_config: shaping_gamma: expected the training's gamma, {config.gamma}{whose}, "
                f"got {game.shaping_gamma}; otherwise shaping changes the optimal policy. Make them equal."
            )
    models = {
        policy: comm_config(view.what, view.policies[policy])
        for policy in sorted(of_team)
        if is_comm(view.policies[policy].model["custom_model"])
    }
    for part, fields in SHARED.items():
        sharing = {policy: comm for policy, comm in models.items() if getattr(comm, part) == "shared"}
        found = {field: {policy: getattr(comm, field) for policy, comm in sharing.items()} for field in fields}
        if part == "encoder":  # the first policy updates it
            found |= {key: {policy: view.policies[policy][key] for policy in sharing} for key in UPDATES}
        for key, values in found.items():
            if any(value != next(iter(values.values())) for value in values.values()):
                raise ConfigError(
                    f"config: multiagent: policies: {part}: shared: expected one {key}, got {values}: these policies "
                    f"have one {part}. Make them equal, or set {part}: class."
                )
    held = sorted(policy for policy, comm in models.items() if comm.encoder == "shared" and policy not in trained)
    if held and trained & models.keys():
        raise ConfigError(
            f"config: multiagent: policies_to_train: expected all of the team's policies, got none of {held}: with "
            "encoder: shared, training one of them changes how all of them act. Add them, or set encoder: class."
        )


def _check_evaluation(training: View, team: CommEnv, view: View) -> None:
    game = _build_team(view)
    if game is None:
        raise ConfigError(
            f"{view.what}: env: expected a {type(team).__name__} as in training, got {view.config.env!r}. Leave it out."
        )
    if team.games.game.layout.senses != game.games.game.layout.senses:
        raise ConfigError(
            f"{view.what}: env_config: expected a game whose classes observe the same as in training, got another. "
            "Change the game."
        )
    trained, evaluated = (
        {each.group_of[agent]: space for agent, space in each.action_spaces.items()} for each in (team, game)
    )
    for group in trained:
        if trained[group] != evaluated.get(group, trained[group]):
            raise ConfigError(
                f"{view.what}: env_config: expected actions of {group} in {trained[group]} as in training, got "
                f"{evaluated[group]}. Change the game."
            )
    for policy in sorted(set(_acting(view, game).values())):
        what = f"{view.what}: multiagent: policies: {policy}"
        before, now = training.policies[policy], view.policies[policy]
        ours = is_comm(before.model["custom_model"])
        if ours != is_comm(now.model["custom_model"]):
            raise ConfigError(
                f"{view.what}: model: expected training's custom_model for {policy}, got another. Leave it out."
            )
        if not ours:
            continue
        trained_comm, evaluated_comm = comm_config(what, before), comm_config(what, now)
        for key in ARCHITECTURE:
            expected, got = getattr(trained_comm, key), getattr(evaluated_comm, key)
            if expected != got:
                raise ConfigError(
                    f"{view.what}: model: {key}: expected {expected} as in the training of {policy}, whose "
                    f"weights are evaluated, got {got}. Give all of custom_model_config, or leave it out."
                )
