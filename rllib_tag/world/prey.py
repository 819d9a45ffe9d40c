"""Prey that moves by a script of a user's own."""

from __future__ import annotations

import abc

import numpy as np

from rllib_tag.world.game import Arrays


class Prey(abc.ABC):
    """A script that moves the good agents of tag.

    `good_policy: {type: my_lab.prey.Flee, …}` names a subclass, with the arguments of its constructor. It moves the
    good agents of many games at once, and each of them by what it observes now: the same observation gives the same
    action, so it keeps nothing from step to step and draws nothing at random.

    Examples:
        >>> class Left(Prey):
        ...     def act(self, observations):
        ...         return np.full(len(observations["own"]), 1)
        >>> Left().act({"own": np.zeros((2, 4))})
        array([1, 1])
    """

    @abc.abstractmethod
    def act(self, observations: Arrays) -> np.ndarray:
        """Returns the actions of M good agents.

        Args:
            observations: Arrays (M, …) in absolute coordinates: `own` (M, 4), position and velocity; `adversaries`
                (M, x, 2); `good` (M, y - 1, 4), if there is more than one good agent; `landmarks` (M, z, 2), if there
                are any. If the size of the game is drawn, absent ones are zeros, and `adversaries_present`,
                `good_present` and `landmarks_present` say who is there.

        Returns:
            (M,) integers: 0 to stay, 1 to accelerate to the left, 2 to the right, 3 down, 4 up. With
            `continuous_actions`, (M, 5) numbers in [0, 1]: how strongly to do each of these.
        """
