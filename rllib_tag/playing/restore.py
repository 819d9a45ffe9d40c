"""Restores trained teams from RLlib checkpoints and exported weights."""

from __future__ import annotations

import atexit
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rllib_tag.errors import ConfigError
from rllib_tag.experiment.checkpoints import find_checkpoint, is_complete, read_checkpoint
from rllib_tag.experiment.pretrained import DEFAULT_TEAM
from rllib_tag.names import GOOD_POLICIES, GOOD_POLICY
from rllib_tag.nn.network import AdversaryNet
from rllib_tag.nn.weights import (
    MANIFEST,
    PREY,
    Exported,
    Net,
    check_replaceable,
    frozen_prey,
    save_exported,
)
from rllib_tag.places import Place, is_uri, local_copy
from rllib_tag.plugin.env_config import (
    CommEnvConfig,
    EnvConfig,
    TagEnvConfig,
    choices_of,
    groups_of,
    read_env_config,
)
from rllib_tag.plugin.prey import greedy_actions
from rllib_tag.world.game import Game
from rllib_tag.world.layout import MessageLayout
from rllib_tag.world.observations import tag_layout

Observation = Mapping[str, np.ndarray | torch.Tensor]


@dataclasses.dataclass(frozen=True)
class TrainedTeam:
    """Restored policies and the game that they were trained on.

    Args:
        nets: Networks by policy name, on the CPU and in evaluation mode.
        env_config: The keys of `TagEnv` that the training run set.
        source: Where they were restored from.
        seed: The training run's seed; None if it had none, or if it is not known.
        env_steps: Environment steps of training; None if not known.
        acting: The policy of each agent of the trained game, if a custom mapping chose it; None if the agents of a
            class act by the policy of its name.
    """

    nets: Mapping[str, Net]
    env_config: Mapping[str, Any]
    source: Path | str
    seed: int | None = None
    env_steps: int | None = None
    acting: Mapping[str, str] | None = None

    @property
    def training(self) -> str:
        """What it was trained on, and for how long, in words."""
        game = game_in_words(self.env_config)
        return game if self.env_steps is None else f"{game} for {self.env_steps:,} steps"

    @property
    def listens(self) -> bool:
        """Whether any agent reads what another one says."""
        return any(net.config.listens for net in self.nets.values() if isinstance(net, AdversaryNet))

    def env_config_for(self, **overrides: Any) -> EnvConfig:
        """Returns the trained game with some keys changed, checked against the policies.

        Raises:
            ConfigError: If a key does not fit or the game needs a policy that was not trained.
        """
        config = read_env_config({**self.env_config, **overrides})
        self.check_plays(config, config.policies)
        return config

    def tag_config_for(self, what: str, **overrides: Any) -> TagEnvConfig:
        """Returns the same for a team of tag.

        Args:
            what: What supports only tag, for messages.
            **overrides: As for `env_config_for`.

        Raises:
            ConfigError: If the team plays another game.
        """
        # Keys of tag are changed in no other game, which may not have them.
        config = self.env_config_for(**({} if "game" in self.env_config else overrides))
        if not isinstance(config, TagEnvConfig):
            raise ConfigError(
                f"{what}: expected a team of tag, got one of {self.env_config['game']}. Use another team."
            )
        return config

    def check_options(self, overrides: Mapping[str, Any]) -> None:
        """Checks that the game has the keys that the options of a command change.

        Args:
            overrides: The keys, whose options have the same names.

        Raises:
            ConfigError: If an option is for tag, and the team plays another game, which does not take the key either.
        """
        config = self.env_config_for()
        if isinstance(config, CommEnvConfig):
            for key in overrides:
                if not config.takes(key):
                    raise ConfigError(
                        f"--{key.replace('_', '-')}: expected a team of tag, which has this option, got one of "
                        f"{config.path}. Leave the option out."
                    )

    def check_plays(self, config: EnvConfig, classes: Sequence[str]) -> None:
        """Checks that the team can move the agents of some classes in a game.

        Args:
            config: The game.
            classes: Names of classes, such as `class_a`, `class_b`, `good`.

        Raises:
            ConfigError: If a policy is missing, has another kind of actions, or was trained on other observations.
        """
        for name in classes:
            agents = config.game.members(name)
            for policy, places in self.parts(config.game, name):
                net = self.nets[policy]
                moved = [agents[place] for place in places]
                config.check_actions(f"{self.source}: {policy}", moved, net.num_outputs, net.continuous)
                if isinstance(net, AdversaryNet) and net.encoder.senses != config.game.layout.senses:
                    raise ConfigError(
                        f"expected a game for {policy!r} in {self.source}, which was trained to see "
                        f"{net.encoder.senses}, got one that shows {config.game.layout.senses}. Change the game."
                    )

    def check_sends(self, config: EnvConfig, what: str) -> None:
        """Checks that agents send learned messages, each the same to all who hear it.

        Args:
            config: The game.
            what: What needs them, for messages.

        Raises:
            ConfigError: If they do not.
        """
        for name, net in self.nets.items():
            if isinstance(net, AdversaryNet) and not net.encoder.shares_messages(config.comm_hops):
                raise ConfigError(
                    f"{what}: expected encoder: shared, sequence: history and comm_hops of at least gnn_layers, so "
                    f"that all receivers hear the same message, got encoder: {net.config.encoder}, sequence: "
                    f"{net.config.sequence}, gnn: {net.config.gnn}, gnn_layers: {net.config.gnn_layers} for {name} and "
                    f"comm_hops: {config.comm_hops}. Use another team, or leave this out."
                )

    @torch.no_grad()
    def messages(self, states: Mapping[str, Tensor], layout: MessageLayout) -> Tensor:
        """Returns what all agents send in each graph layer, for a team that passes `check_sends`.

        Args:
            states: What `Games.states` returns of B games.
            layout: The layout of the game's messages.

        Returns:
            (B, layers, N, message_dim).
        """
        encoder = next(net.encoder for net in self.nets.values() if isinstance(net, AdversaryNet))
        return encoder.messages(states, layout)

    def parts(self, game: Game, name: str) -> list[tuple[str, list[int]]]:
        """Returns which policies move the members of a class, and which members each of them moves.

        If the trained members of a class shared a policy, all members of any team act by it. If they did not, an agent
        acts by the policy of the trained agent of the same name.

        Args:
            game: The game that is played.
            name: The class, such as `class_a`, `class_b` or `good`.

        Returns:
            Each policy with the places of its agents in `game.members(name)`.

        Raises:
            ConfigError: If a member has no policy.
        """
        acting = self.acting or {}
        groups = groups_of(self.env_config) if acting else {}
        trained = {agent: policy for agent, policy in acting.items() if groups.get(agent) == name}
        shared = set(trained.values()) if acting else {name} & self.nets.keys()
        parts: dict[str, list[int]] = {}
        for place, agent in enumerate(game.members(name)):
            policy = next(iter(shared)) if len(shared) == 1 else trained.get(agent)
            if policy is None:
                raise ConfigError(
                    f"expected a game for the policies in {self.source} ({', '.join(self.nets)}), "
                    f"got one that needs {name!r} for {agent}. Change the team"
                    f"{', or good_policy.' if name == GOOD_POLICY else '.'}"
                )
            parts.setdefault(policy, []).append(place)
        return list(parts.items())

    def actions(
        self,
        policy: str,
        observations: Observation,
        rngs: Sequence[np.random.Generator] | None = None,
        layout: MessageLayout | None = None,
    ) -> np.ndarray:
        """Returns the actions of several agents of one policy, for any team size.

        Args:
            policy: The policy's name.
            observations: Observations of `TagEnv`, stacked by key: (B, ...) arrays or tensors.
            rngs: For each observation, the random stream of its action; None takes the most likely actions.
                Default: None.
            layout: The layout of the game's messages: `env_config_for(…).game.layout`. Default: that of tag, if the
                observations hold the critics' state, which shows the numbers of prey and landmarks.

        Returns:
            (B,) integers, or (B, n) float32 for n continuous actions.
        """
        net = self.nets[policy]
        batch = {key: torch.as_tensor(value) for key, value in observations.items()}
        if layout is None and "messages" in batch:
            if "good" not in batch:
                raise ConfigError(
                    "actions: expected a layout for observations without the state of tag, got none. Give one."
                )
            layout = tag_layout(batch)
        with torch.no_grad():
            outputs, _ = net(batch, layout)
        if rngs is None:
            return greedy_actions(outputs, net.continuous)
        if net.continuous:
            mean, log_std = outputs.chunk(2, dim=-1)
            noise = torch.from_numpy(np.stack([rng.standard_normal(mean.shape[1], np.float32) for rng in rngs]))
            return greedy_actions(torch.cat([mean + log_std.exp() * noise, log_std], dim=-1), True)
        # The largest of logits plus Gumbel noise is a draw from their softmax.
        noise = torch.from_numpy(np.stack([rng.gumbel(size=outputs.shape[1]) for rng in rngs]))
        return greedy_actions(outputs + noise, False)


def game_in_words(env_config: Mapping[str, Any]) -> str:
    """Returns the sizes and the prey of a game of tag, or the name of another game."""
    defaults = {field.name: field.default for field in dataclasses.fields(TagEnvConfig)}
    config: dict[str, Any] = {**defaults, **env_config}
    game = str(config.get("game", "")).rpartition(".")[2]
    if game:
        return game
    a, b, prey = (
        "-".join(map(str, sorted({min(numbers), max(numbers)})))
        for numbers in (choices_of(config[key]) for key in ("num_class_a", "num_class_b", "num_good"))
    )
    policy = config["good_policy"]
    kind = policy["type"] if isinstance(policy, Mapping) else policy if policy in GOOD_POLICIES else "frozen"
    return f"{a}A + {b}B against {prey} {kind} prey"


def restore(path: str | os.PathLike[str] = DEFAULT_TEAM) -> TrainedTeam:
    """Restores a trained team on the CPU and without workers, whatever training used.

    Args:
        path: A folder that `rllib export` wrote, an RLlib checkpoint, or the folder of a trial, or of an experiment
            with one trial, whose newest complete checkpoint is used; or the URI of one of these; or the name of a team
            that ships with the package. RLlib checkpoints are pickles: open only those that you trust. Default: one of
            the teams that ship.

    Raises:
        ConfigError: If there is no checkpoint, it is incomplete, or its model is not this project's.

    Examples:
        >>> team = restore()
        >>> sorted(team.nets)
        ['class_a', 'class_b']
        >>> team.env_config_for(num_class_a=3).policies  # it plays any team
        ('class_a', 'class_b')
    """
    location = os.fspath(path)
    if is_uri(location):
        location = location.removesuffix(f"/{MANIFEST}")  # a manifest stands for its folder
    with local_copy(location, is_complete) as folder:
        found = find_checkpoint(folder)
        read = read_checkpoint(found)
        team = TrainedTeam(read.nets, read.env_config, found, read.seed, read.env_steps, read.acting)
        if not is_uri(location):
            return team
        within = found.relative_to(folder.absolute()).as_posix()
        source = (Place.at(location) / within).location if within != "." else location
        return dataclasses.replace(team, source=source, env_config=_with_prey_kept(team.env_config, folder))


def _with_prey_kept(env_config: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """Returns the game with frozen prey copied from a temporary folder to one that lives as long as the process."""
    frozen = frozen_prey(env_config)
    if frozen is None or not Path(frozen).is_relative_to(folder.absolute()):
        return env_config
    kept = tempfile.mkdtemp(prefix="rllib_tag_")
    atexit.register(shutil.rmtree, kept, ignore_errors=True)
    return {**env_config, "good_policy": str(shutil.copytree(frozen, Path(kept, PREY)))}


def export(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Writes a checkpoint's weights as safetensors with a manifest.

    Args:
        path: As for `restore`.
        out: The folder to write: a new one, or an earlier export, which is replaced.

    Raises:
        ConfigError: If the checkpoint cannot be restored or the folder cannot be written.
    """
    check_replaceable(out)
    team = restore(path)
    return save_exported(Exported(team.nets, team.env_config, team.seed, team.env_steps, team.acting), out)
