"""Records episodes step by step: what everyone did, who heard whom, and with how much attention."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rllib_tag.errors import check_int
from rllib_tag.files import as_json, provenance, write_files
from rllib_tag.names import POLICIES
from rllib_tag.playing.controllers import class_parts, team_controller
from rllib_tag.playing.evaluate import FIRST_SEED
from rllib_tag.playing.games import Games
from rllib_tag.playing.influence import receiver_attention
from rllib_tag.playing.restore import TrainedTeam, restore
from rllib_tag.plugin.env_config import TagEnvConfig
from rllib_tag.world.simulator import SIZE

View = Callable[[dict[str, Any]], str | bytes]
DIGITS = 5  # of recorded numbers; positions are of order 1


def rollout(
    team: TrainedTeam | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    episodes: int = 1,
    first_seed: int = FIRST_SEED,
    views: Mapping[str, View | None] | None = None,
    on_episode: Callable[[list[Path]], None] | None = None,
    messages: bool = False,
    **env_overrides: Any,
) -> list[Path]:
    """Records seeded episodes as `episode_SEED.json`, each together with its views.

    With `messages`, `episode_SEED.messages.npz` has what was sent before each of S actions and after the last one:
    `messages` (S + 1, L, N, message_dim) float32 in L graph layers, `links` (S + 1, N, N), [receiver, sender], and the
    `senders` (N).

    Args:
        team: A restored team, or a path for `restore`.
        out: The folder to write to.
        episodes: Number of episodes. Default: 1.
        first_seed: Seed of the first episode; the others follow. Default: 1,000,000.
        views: By suffix, such as `gif`, what makes a view of an episode; None removes a view that an earlier recording
            of the seed left. Default: no views, and none is removed.
        on_episode: Called with the paths of each episode's files as they are written. Default: nothing.
        messages: Whether to write the messages sent, for which a team needs `encoder: shared`. Default: False.
        **env_overrides: Keys of `TagEnv` that differ from training.

    Returns:
        The paths of the recordings.

    Raises:
        ConfigError: If the team cannot be restored, cannot play that game, or if the folder cannot be written.
    """
    team = team if isinstance(team, TrainedTeam) else restore(team)
    check_int("episodes", episodes, 1)
    check_int("first_seed", first_seed, 0)
    config = team.tag_config_for("rollout", **env_overrides)
    if messages:
        team.check_sends(config, "messages")
    paths = []
    for seed in range(first_seed, first_seed + episodes):
        sent: list[np.ndarray] | None = [] if messages else None
        episode = {**record_episode(team, seed, {**team.env_config, **env_overrides}, sent), **provenance()}
        contents = {f".{suffix}": view and view(episode) for suffix, view in (views or {}).items()}
        contents = {
            ".json": as_json(episode),
            ".messages.npz": _messages_file(episode, sent) if sent else None,
            **contents,
        }
        written = write_files(out, {f"episode_{seed}{suffix}": content for suffix, content in contents.items()})
        paths.append(written[0])
        if on_episode:
            on_episode(written)
    return paths


def _messages_file(episode: Mapping[str, Any], sent: list[np.ndarray]) -> bytes:
    file, senders = io.BytesIO(), episode["names"][: sent[0].shape[1]]
    np.savez_compressed(file, messages=np.stack(sent), links=np.array(episode["links"], bool), senders=senders)
    return file.getvalue()


def record_episode(
    team: TrainedTeam, seed: int, env_config: dict[str, Any], sent: list[np.ndarray] | None = None
) -> dict[str, Any]:
    """Plays one episode with the most likely actions and records it.

    Args:
        team: The team.
        seed: The seed of the episode.
        env_config: The keys of `TagEnv`.
        sent: If given, it gets the messages sent before each action, (L, N, message_dim). Default: None.

    Returns:
        A mapping with, for S steps and N adversaries: `names`, `classes` (N), `positions` (S + 1, agents, 2),
        `landmarks` (z, 2), `sizes` (agents), `comm_range`, `links` (S + 1, N, N), `attention` (S + 1, N, N):
        each adversary's attention to each sender in its last graph layer, `actions` (S) by agent, `rewards` (S),
        MPE's own, averaged over the adversaries, and `stats`. If the size of a game is drawn, these are only those
        that take part.
    """
    config = TagEnvConfig.from_mapping(env_config)
    games, roster = Games(config, [seed], config.world(1)), config.roster
    x, y, z = roster.num_adversaries, roster.num_good, config.game.num_obstacles
    present = games.facts.get("present", np.ones((1, x + y + z), bool))[0]
    agents, marks = np.split(present, [x + y])
    team_here = np.flatnonzero(present[:x])
    pairs = np.ix_(team_here, team_here)
    names = np.array([*roster.adversaries, *roster.good_agents])[agents].tolist()
    act = team_controller(team, config.policies)
    record: dict[str, list[Any]] = {"positions": [], "links": [], "attention": [], "rewards": [], "actions": []}
    returns = 0.0
    while True:
        record["positions"].append(_rounded(games.positions[0, agents]))
        record["links"].append(games.links[0][pairs].astype(int).tolist())
        record["attention"].append(_rounded(last_attention(team, games)[0][pairs]))
        if sent is not None:
            sent.append(team.messages(games.states(), games.layout)[0].numpy()[:, team_here])
        if games.stats[0]:
            break
        actions = act(games, [])
        games.step(actions)
        returns_now = games.metrics_so_far()[0]["return_adversary"]
        record["rewards"].append(returns_now - returns)
        returns = returns_now
        record["actions"].append({name: action[0].tolist() for name, action in actions.items() if name in names})
    return {
        "seed": seed,
        "source": "/".join(Path(team.source).parts[-2:]),
        "env_config": env_config,
        "names": names,
        "classes": roster.classes[team_here].tolist(),
        "sizes": [SIZE["adversary"]] * len(team_here) + [SIZE["good"]] * (len(names) - len(team_here)),
        "landmark_sizes": [SIZE["landmark"]] * int(marks.sum()),
        "landmarks": _rounded(games.facts["landmarks"][0, marks]),
        "comm_range": float(games.comm_ranges[0]) if np.isfinite(games.comm_ranges[0]) else None,
        "stats": games.stats[0],
        **record,
    }


def last_attention(team: TrainedTeam, games: Games) -> np.ndarray:
    """Returns each adversary's attention to each sender in its own last graph layer: (B, N, N), 0 without `gnn`."""
    assert isinstance(games.config, TagEnvConfig)
    roster = games.config.roster
    out = np.zeros((len(games.seeds), roster.num_adversaries, roster.num_adversaries))
    for name in POLICIES:
        members = roster.members(name)
        for policy, places, rows in class_parts(team, name, games):
            receivers = [roster.adversaries.index(members[place]) for place in places]
            attention = receiver_attention(team.nets[policy], rows, games.layout)
            out[:, receivers] = attention.unflatten(0, (len(games.seeds), -1)).numpy()
    return out


def _rounded(values: Any) -> Any:
    return np.round(np.asarray(values, np.float64), DIGITS).tolist()
