"""What the tests of both API stacks share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.utils import deterministic


@pytest.fixture(autouse=True)
def _torch_as_before() -> Iterator[None]:
    """A seeded worker in this process sets torch's determinism for the whole process."""
    before = torch.are_deterministic_algorithms_enabled(), deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(before[0])
    deterministic.fill_uninitialized_memory = before[1]
