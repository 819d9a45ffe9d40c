"""What the tests of both API stacks share."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils import deterministic

from rllib_tag.plugin.team_rows import TeamNet


@pytest.fixture(autouse=True)
def _torch_as_before() -> Iterator[None]:
    """A seeded worker in this process sets torch's determinism for the whole process."""
    before = torch.are_deterministic_algorithms_enabled(), deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(before[0])
    deterministic.fill_uninitialized_memory = before[1]


@pytest.fixture
def three_cpus(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A machine with three CPUs; torch's threads and the rows of each part that an encoder encodes, three at once."""
    seen, features, together, get_num_threads = [], TeamNet.features, threading.Barrier(3), torch.get_num_threads

    def watched(team: TeamNet, obs: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            together.wait(timeout=60)  # raises unless three parts are encoded at once
            seen.append((get_num_threads(), len(obs["links"])))
        return features(team, obs)

    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(TeamNet, "features", watched)
    return seen
