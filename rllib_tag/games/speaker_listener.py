"""MPE's `simple_speaker_listener_v4`: one agent knows the goal, the other one can move."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpe2 import simple_speaker_listener_v4
from pettingzoo import ParallelEnv

from rllib_tag.world.game import Arrays, Game
from rllib_tag.world.layout import ClassView


class SpeakerListener(Game):
    """A speaker sees the colour of the goal; a listener, which can move, sees three landmarks and their colours.

    They communicate only over links. The listener's view leaves out MPE's own channel of three symbols, so the
    speaker's actions, Discrete(3), have no effect. Each step rewards both with minus the squared distance from the
    listener to the landmark of the goal's colour.

    Args:
        max_cycles: Steps in an episode. Default: 25.
        full_observation: Whether the listener also sees the colour of the goal. Default: False.

    Source: mpe2 `simple_speaker_listener.Scenario`.
    """

    def __init__(self, max_cycles: int = 25, full_observation: bool = False) -> None:
        self.classes = {"speaker": ["speaker_0"], "listener": ["listener_0"]}
        self.max_cycles, self.full_observation = max_cycles, full_observation

    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        """Returns a new mpe2 env."""
        return simple_speaker_listener_v4.parallel_env(max_cycles=self.max_cycles, render_mode=render_mode)

    def facts(self, env: ParallelEnv) -> Arrays:
        """Returns `team` (2, 4): position, velocity; `landmarks` (3, 5): position, colour; `goal` (3,): its colour."""
        world = env.world
        return {
            "team": np.array([[*agent.state.p_pos, *agent.state.p_vel] for agent in world.agents]),
            "landmarks": np.array([[*mark.state.p_pos, *_hue(mark)] for mark in world.landmarks]),
            "goal": _hue(world.agents[0].goal_b),
        }

    def see(self, name: str, observation: np.ndarray, facts: Arrays) -> ClassView:
        """The speaker sees its position and the goal's colour, the listener its movement and the landmarks."""
        goal = facts["goal"][..., None, :]
        if name == "speaker":
            return ClassView(np.concatenate([facts["team"][..., :1, :2], goal], axis=-1), {})
        own = facts["team"][..., 1:, :]
        if self.full_observation:
            own = np.concatenate([own, goal], axis=-1)
        return ClassView(own, {"landmarks": facts["landmarks"][..., None, :, :]})

    def positions(self, facts: Arrays) -> np.ndarray:
        """Returns the position of both agents, (..., 2, 2)."""
        return facts["team"][..., :2]

    def state(self, facts: Arrays) -> Arrays:
        """Returns position, velocity and goal for each agent, and the landmarks."""
        goal = np.broadcast_to(facts["goal"][..., None, :], (*facts["team"].shape[:-1], 3))
        return {"team": np.concatenate([facts["team"], goal], axis=-1), "landmarks": facts["landmarks"]}


def _hue(landmark: Any) -> np.ndarray:
    """Returns the colour of a landmark as one-hot, (3,)."""
    return (landmark.color - 0.15) / 0.5
