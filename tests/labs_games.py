"""Games as a lab may bring them, good and bad, where Ray's workers find them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from pettingzoo import ParallelEnv

from rllib_tag import Game
from rllib_tag.games import Spread
from rllib_tag.world.game import Arrays
from rllib_tag.world.layout import ClassView


class RescueEnv(ParallelEnv):
    """Medics, drivers and a pilot look for a casualty on a plane; some episodes end early, when one is near it."""

    metadata = {"name": "rescue"}  # noqa: RUF012
    possible_agents = ["medic_0", "medic_1", "driver_0", "pilot_0", "pilot_1"]  # noqa: RUF012
    render_mode = None

    def __init__(self, max_cycles: int, near: float) -> None:
        self._max_cycles, self._near = max_cycles, near
        self._rng = np.random.default_rng()

    def observation_space(self, agent: str) -> gym.Space:
        return gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def action_space(self, agent: str) -> gym.Space:
        return gym.spaces.Discrete(3 if agent.startswith("pilot") else 5)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.agents, self.steps = list(self.possible_agents), 0
        self.places, self.casualties = self._rng.uniform(-1, 1, (5, 2)), self._rng.uniform(-1, 1, (7, 2))
        return self._observe(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> Any:
        moves = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]]) / 10
        self.places = self.places + moves[[actions[agent] for agent in self.possible_agents]]
        self.steps += 1
        offsets = self.places[:, None] - self.casualties[None, :1]
        distances = np.linalg.norm(offsets, axis=-1).min(1)
        rewards = dict(zip(self.agents, (-distances).tolist(), strict=True))
        ended = {agent: bool(distances.min() < self._near) for agent in self.agents}
        out_of_time = dict.fromkeys(self.agents, self.steps >= self._max_cycles)
        observations, infos = self._observe(), {agent: {} for agent in self.agents}
        if all(ended.values()) or all(out_of_time.values()):
            self.agents = []
        return observations, rewards, ended, out_of_time, infos

    def _observe(self) -> dict[str, np.ndarray]:
        return {
            agent: np.array([*place, self.steps], np.float32)
            for agent, place in zip(self.possible_agents, self.places, strict=True)
        }


class Rescue(Game):
    """Three classes: medics see casualties, drivers roads, pilots nothing but themselves."""

    fixed_length = False

    def __init__(self, max_cycles: int = 11, near: float = 0.15) -> None:
        self.classes = {"medic": ["medic_0", "medic_1"], "driver": ["driver_0"], "pilot": ["pilot_0", "pilot_1"]}
        self.max_cycles, self._near = max_cycles, near

    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        return RescueEnv(self.max_cycles, self._near)

    def facts(self, env: RescueEnv) -> dict[str, np.ndarray]:
        return {"places": env.places, "casualties": env.casualties, "steps": np.array(env.steps)}

    def see(self, name: str, observation: np.ndarray, facts: dict[str, np.ndarray]) -> ClassView:
        own = observation if name == "pilot" else observation[..., :2]
        n = observation.shape[-2]
        if name == "medic":
            return ClassView(own, {"casualty": np.repeat(facts["casualties"][..., None, :, :], n, axis=-3)})
        if name == "driver":
            roads = np.concatenate([facts["casualties"][..., :3, :], facts["casualties"][..., 1:4, :]], axis=-1)
            return ClassView(own, {"road": roads[..., None, :, :]})
        return ClassView(own, {})

    def positions(self, facts: dict[str, np.ndarray]) -> np.ndarray:
        return facts["places"]

    def state(self, facts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"team": facts["places"], "casualty": facts["casualties"]}

    def measure(self, facts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        offsets = facts["places"][..., :, None, :] - facts["casualties"][..., None, :1, :]
        return {"near_steps": (np.linalg.norm(offsets, axis=-1).min((-2, -1)) < 0.5).astype(float)}


class SaidToBeAlike(Rescue):
    """Episodes of unlike length that are said to be alike."""

    fixed_length = True


class MoreToSee(Rescue):
    """Everybody sees a number more of itself."""

    def see(self, name: str, observation: np.ndarray, facts: dict[str, np.ndarray]) -> ClassView:
        view = super().see(name, observation, facts)
        return ClassView(np.concatenate([view.own, view.own[..., :1]], axis=-1), view.entities)


class NobodyIsADriver(Rescue):
    """A class without agents."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = {"medic": ["medic_0", "medic_1"], "driver": [], "pilot": ["driver_0", "pilot_0", "pilot_1"]}


class SomebodyIsForgotten(Rescue):
    """An agent of no class."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = {"medic": ["medic_0", "medic_1"], "driver": ["driver_0"], "pilot": ["pilot_0"]}


class FlatView(Rescue):
    """Entities in one row."""

    def see(self, name: str, observation: np.ndarray, facts: dict[str, np.ndarray]) -> ClassView:
        view = super().see(name, observation, facts)
        return ClassView(
            view.own, {kind: values.reshape(*values.shape[:-2], -1) for kind, values in view.entities.items()}
        )


class ViewOfChangingLength(Rescue):
    """Casualties vanish as they are passed."""

    def see(self, name: str, observation: np.ndarray, facts: dict[str, np.ndarray]) -> ClassView:
        view = super().see(name, observation, facts)
        left = 7 - int(np.max(facts["steps"])) // 3
        return ClassView(view.own, {kind: values[..., :left, :] for kind, values in view.entities.items()})


class PositionsInSpace(Rescue):
    """Three coordinates."""

    def positions(self, facts: dict[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([facts["places"], facts["places"][..., :1]], axis=-1)


class NoTeam(Rescue):
    """Critics that see no team."""

    def state(self, facts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"casualty": facts["casualties"]}


class _Leaves(RescueEnv):
    def step(self, actions: dict[str, int]) -> Any:
        observations, rewards, ended, *rest = super().step(actions)
        ended["medic_1"] = ended["medic_1"] or self.steps > 3
        return observations, rewards, ended, *rest


class SomebodyLeavesEarly(Rescue):
    """One agent's episode ends before the others'."""

    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        return _Leaves(self.max_cycles, 0.0)


class _Broken(RescueEnv):
    def step(self, actions: dict[str, int]) -> Any:
        observations, rewards, *rest = super().step(actions)
        if self.steps == 5:
            rewards["driver_0"] = float("nan")
        return observations, rewards, *rest


class FactsRaise(Rescue):
    """Facts by a name that there is not."""

    def facts(self, env: RescueEnv) -> dict[str, np.ndarray]:
        facts = super().facts(env)
        return {"places": facts["place"]}


class _StepRaises(RescueEnv):
    def step(self, actions: dict[str, int]) -> Any:
        np.stack([])


class StepRaises(Rescue):
    """An env that fails in its first step, called by a library."""

    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        return _StepRaises(self.max_cycles, 0.0)


class NotANumber(Rescue):
    """A reward that is not a number."""

    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        return _Broken(self.max_cycles, 0.0)


class _ManyActions(RescueEnv):
    def action_space(self, agent: str) -> gym.Space:
        return gym.spaces.MultiDiscrete([3, 3])


class ManyActions(Rescue):
    """Actions that no policy of this project takes."""

    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        return _ManyActions(self.max_cycles, 0.0)


class _SaysNoTruncations(RescueEnv):
    def step(self, actions: dict[str, int]) -> Any:
        observations, rewards, ended, _, infos = super().step(actions)
        return observations, rewards, ended, {}, infos


class NoTruncations(Rescue):
    """An env that says nothing of truncations."""

    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        return _SaysNoTruncations(self.max_cycles, 0.0)


class OneKindInTwoSizes(Rescue):
    """Drivers see casualties, too, but fewer."""

    def see(self, name: str, observation: np.ndarray, facts: dict[str, np.ndarray]) -> ClassView:
        view = super().see(name, observation, facts)
        if name == "driver":
            return ClassView(view.own, {"casualty": facts["casualties"][..., None, :5, :]})
        return view


class OthersLearn(Rescue):
    """Pilots learn without being part of the team."""

    others_learn = True
    others = {"pilot": ("pilot_0", "pilot_1")}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.classes = {"medic": ["medic_0", "medic_1"], "driver": ["driver_0"]}

    def positions(self, facts: dict[str, np.ndarray]) -> np.ndarray:
        return facts["places"][..., :3, :]


class _StartsOnce(RescueEnv):
    starts = 0

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.starts += 1
        if self.starts > 2:
            raise OSError("the map is gone")
        return super().reset(seed, options)


class StartsOnce(Rescue):
    """An env that fails when its first episode has ended."""

    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        return _StartsOnce(self.max_cycles, 0.0)


class FewerActions(Rescue):
    """Nobody moves along the second axis."""

    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        return _FewerActions(self.max_cycles, 0.0)


class _FewerActions(RescueEnv):
    def action_space(self, agent: str) -> gym.Space:
        return gym.spaces.Discrete(3)


class SomeLandmarks(Spread):
    """Some episodes have only the first two of three landmarks."""

    def present(self, facts: Arrays) -> Arrays:
        number = np.where(facts["landmarks"][..., 0, 0] > 0, 3, 2)
        return {
            "team": np.ones(facts["team"].shape[:-1], bool),
            "landmarks": np.arange(3) < number[..., None],
        }

    def see(self, name: str, observation: np.ndarray, facts: Arrays) -> ClassView:
        view, here = super().see(name, observation, facts), self.present(facts)["landmarks"]
        if not view.entities:
            return view
        landmarks = view.entities["landmarks"] * here[..., None, :, None]
        return ClassView(view.own, {"landmarks": landmarks}, {"landmarks": here[..., None, :]})
