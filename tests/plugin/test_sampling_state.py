"""What checkpoints keep of sampling, besides the games that the tests of each API stack look at."""

from __future__ import annotations

import random

import numpy as np
import torch

from rllib_tag.plugin.sampling_state import random_states, set_random_states


def test_random_states_are_kept_and_other_gpus_noticed() -> None:
    states = random_states()
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    assert set_random_states(states)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == drawn
    assert not set_random_states({**states, "cuda": [*states["cuda"], torch.get_rng_state()]})
