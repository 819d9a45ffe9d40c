"""MPE's `simple_speaker_listener_v4`: who knows the goal cannot move, and who moves does not know it."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpe2 import simple_speaker_listener_v4
from pettingzoo import ParallelEnv

from rllib_tag.world.game import Arrays, Game
from rllib_tag.world.layout import ClassView


class SpeakerListener(Game):
    """A speaker sees the colour of the goal; a listener, who can move, sees three landmarks and their colours.

    They talk over links alone: MPE's own channel of three symbols is left out of the listener's view, so that what the
    speaker does, by Discrete(3), has no effect. Both are paid minus the squared distance from the listener to the
    landmark of the goal's colour.

    Args:
        max_cycles: Steps of an episode. Default: 25.
        full_observation: Whether the listener sees the colour of the goal, too. Default: False.

    Source: mpe2 `simple_speaker_listener.Scenario`.
    """

    def __init__(self, max_cycles: int = 25, full_observation: bool = False) -> None:
        self.classes = {"speaker": ["speaker_0"], "listener": ["listener_0"]}
        self.max_cycles, self.full_observation = max_cycles, full_observation

    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        """A new env of mpe2's."""
        return simple_speaker_listener_v4.parallel_env(max_cycles=self.max_cycles, render_mode=render_mode)

    def facts(self, env: ParallelEnv) -> Arrays:
        """`team` (2, 4): position and velocity; `landmarks` (3, 5): position and colour; `goal` (3,): its colour."""
        world = env.world
        return {
            "team": np.array([[*agent.state.p_pos, *agent.state.p_vel] for agent in world.agents]),
            "landmarks": np.array([[*mark.state.p_pos, *_hue(mark)] for mark in world.landmarks]),
            "goal": _hue(world.agents[0].goal_b),
        }

    def see(self, name: str, observation: np.ndarray, facts: Arrays) -> ClassView:
        """The speaker: its position and the goal's colour. The listener: its own movement and the landmarks."""
        goal = facts["goal"][..., None, :]
        if name == "speaker":
            return ClassView(np.concatenate([facts["team"][..., :1, :2], goal], axis=-1), {})
        own = facts["team"][..., 1:, :]
        if self.full_observation:
            own = np.concatenate([own, goal], axis=-1)
        return ClassView(own, {"landmarks": facts["landmarks"][..., None, :, :]})

    def positions(self, facts: Arrays) -> np.ndarray:
        """Where the two are: (..., 2, 2)."""
        return facts["team"][..., :2]

    def state(self, facts: Arrays) -> Arrays:
        """Movement and goal for both, and the landmarks."""
        goal = np.broadcast_to(facts["goal"][..., None, :], (*facts["team"].shape[:-1], 3))
        return {"team": np.concatenate([facts["team"], goal], axis=-1), "landmarks": facts["landmarks"]}


def _hue(landmark: Any) -> np.ndarray:
    """A landmark's colour one-hot: (3,). mpe2 paints with 0.65 and 0.15, which networks tell apart more slowly."""
    return (landmark.color - 0.15) / 0.5
