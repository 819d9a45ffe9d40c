"""What is counted of an episode, always from MPE's own rewards and the true world."""

from __future__ import annotations

import numpy as np

from rllib_tag.names import GOOD_POLICY, POLICIES
from rllib_tag.world.roster import Roster
from rllib_tag.world.simulator import SIZE


class EpisodeStats:
    """Counts episodes step by step, of one game or of many at once.

    Args:
        roster: Who is who.
        max_cycles: Steps of an episode, which stand for the first contact when there is none.
        lead: Leading axes of everything: () for one game, (B,) for B games. Default: ().
    """

    def __init__(self, roster: Roster, max_cycles: int, lead: tuple[int, ...] = ()) -> None:
        self._roster, self._max_cycles = roster, max_cycles
        self._returns = np.zeros((*lead, roster.num_adversaries + roster.num_good))
        self._contacts = np.zeros(lead)
        self._first = np.zeros(lead)
        self._links = np.zeros(lead)
        self._steps = np.zeros(lead)

    def restart(self, games: np.ndarray | tuple[()] = ()) -> None:
        """Forgets the counts of games whose episodes begin: indices, or () for the one game."""
        for counts in (self._returns, self._contacts, self._first, self._links, self._steps):
            counts[games] = 0

    def step(self, rewards: np.ndarray, positions: np.ndarray, linked: np.ndarray) -> None:
        """Counts one step.

        Args:
            rewards: (..., N + y) MPE's own rewards of the step, adversaries first.
            positions: (..., N + y, 2) true positions after the step.
            linked: (..., N, N) links after the step.
        """
        x = self._roster.num_adversaries
        self._steps += 1
        self._returns += rewards
        offsets = positions[..., :x, None, :] - positions[..., None, x:, :]
        touching = np.sqrt(np.square(offsets).sum(-1)) < SIZE["adversary"] + SIZE["good"]
        contacts = touching.sum((-2, -1))
        self._first = np.where((contacts > 0) & (self._first == 0), self._steps, self._first)
        self._contacts += contacts
        self._links += (linked.sum((-2, -1)) - x) / x

    def summary(self, game: int | tuple[()] = ()) -> dict[str, float]:
        """A game's figures under the names of `METRICS`: its index, or () for the one game.

        `return_*`: undiscounted sum of MPE's own reward, mean over the agents named; a class without
        members has no entry. `contacts`: adversary-prey contacts summed over the steps. `captured`: 1 if
        there was any. `steps_to_first_contact`: `max_cycles` if there was none. `mean_links`: teammates
        that an adversary is linked to, mean over adversaries and steps.
        """
        roster, returns = self._roster, self._returns[game]
        names = (*roster.adversaries, *roster.good_agents)
        groups = {"return_adversary": roster.adversaries}
        groups |= {f"return_{policy}": roster.members(policy) for policy in (*POLICIES, GOOD_POLICY)}
        out = {
            name: float(np.mean([returns[names.index(agent)] for agent in agents]))
            for name, agents in groups.items()
            if agents
        }
        contacts = float(self._contacts[game])
        return out | {
            "contacts": contacts,
            "captured": float(contacts > 0),
            "steps_to_first_contact": float(self._first[game] or self._max_cycles),
            "mean_links": float(self._links[game] / max(self._steps[game], 1)),
        }
