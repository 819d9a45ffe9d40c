"""What learned messages say: how well a linear map reads the prey's position and velocity from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from rllib_tag.playing.controllers import play, team_controller
from rllib_tag.playing.games import Games
from rllib_tag.playing.quantized import CALIBRATION_SEEDS
from rllib_tag.playing.restore import TrainedTeam


def probe(team: TrainedTeam, **env_overrides: Any) -> list[dict[str, Any]]:
    """Regresses the state of the only prey on what each class sends in each graph layer, by least squares.

    Args:
        team: A team of tag with `encoder: shared`.
        **env_overrides: Keys of `TagEnv` that differ from training. There is one good agent.

    Returns:
        For each class and layer (from 1), `r2_position` and `r2_velocity`: the share of the variance that is explained,
        averaged over both coordinates, in the second half of `CALIBRATION_SEEDS`; the first half is for the fit. Only
        agents that take part count; a class of which nobody does has no rows.

    Raises:
        ConfigError: If the team sends no messages that are the same for all who hear them.
    """
    config = team.tag_config_for("probe", **{**env_overrides, "num_good": 1})
    team.check_sends(config, "probe")
    sent, states, present = [], [], []

    def watch(games: Games) -> None:
        sent.append(team.messages(games.states(), games.layout).numpy())  # (B, L, N, message_dim)
        present.append(games.present)
        states.append(np.concatenate([games.positions[:, -1], games.velocities[:, -1]], axis=-1))  # (B, 4)

    play(config, team_controller(team, config.policies), CALIBRATION_SEEDS, watch)
    messages, prey, here = (np.stack(values, axis=1) for values in (sent, states, present))  # (B, steps, ...)
    rows = []
    for name in config.game.classes:
        members = [config.game.team.index(agent) for agent in config.game.members(name)]
        for layer in range(messages.shape[2] if members else 0):
            said = messages[:, :, layer, members]  # (B, steps, n, message_dim)
            told = np.repeat(prey[:, :, None], len(members), axis=2)
            halves = [np.array_split(values, 2) for values in (said, told, here[:, :, members])]
            fit, test = ((said[which], told[which]) for said, told, which in zip(*halves, strict=True))
            if not (len(fit[0]) and len(test[0])):
                continue
            explained = _explained(fit, test)
            position, velocity = (float(part.mean()) for part in np.split(explained, 2))
            rows.append({"class": name, "layer": layer + 1, "r2_position": position, "r2_velocity": velocity})
    return rows


def _explained(fit: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Returns the shares of variance explained in a test, (4,), of what is told (M, 4) by what is said (M, D)."""
    (inputs, targets), (tests, truth) = ([values.astype(np.float64) for values in part] for part in (fit, test))
    weights, *_ = np.linalg.lstsq(_with_ones(inputs), targets, rcond=None)
    errors = truth - _with_ones(tests) @ weights
    return 1 - np.square(errors).mean(0) / truth.var(0)


def _with_ones(values: np.ndarray) -> np.ndarray:
    return np.pad(values, ((0, 0), (0, 1)), constant_values=1)
