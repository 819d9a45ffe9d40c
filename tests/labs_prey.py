"""Prey as a lab may bring it, good and bad."""

from __future__ import annotations

import numpy as np

from rllib_tag import Prey
from rllib_tag.world.game import Arrays


class Herd(Prey):
    """Runs to the side on which it is, or does what a script must not do.

    Args:
        style: `alone`, or what is wrong: `one` moves only the first prey, `all` moves all of them as the first one,
            `steps` counts its calls, `late` changes after 30 of them, `dice` draws at random, `raises` looks for what
            nobody observes.
    """

    def __init__(self, style: str) -> None:
        self.style, self.calls = style, 0

    def act(self, observations: Arrays) -> np.ndarray:
        """Returns the actions."""
        sides = np.where(observations["own"][:, 0] > 0, 2, 1)
        if self.style == "one":
            return sides[:1]
        if self.style == "all":
            return np.full_like(sides, sides[0])
        if self.style == "steps":
            self.calls += 1
            return sides + self.calls % 2
        if self.style == "late":
            self.calls += 1
            return sides if self.calls < 30 else 3 - sides
        if self.style == "dice":
            return np.random.default_rng().integers(0, 5, len(sides))
        return sides if self.style == "alone" else observations["hares"]
