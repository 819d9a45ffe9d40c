"""Calls in parallel."""

from __future__ import annotations

import time

import pytest

from rllib_tag.plugin.parallel import mapping


def test_an_error_of_one_call_waits_for_the_others() -> None:
    ended = []

    def call(fails: bool) -> None:
        if fails:
            raise FloatingPointError
        time.sleep(0.3)
        ended.append(True)

    with pytest.raises(FloatingPointError):
        mapping("test", 2, 1)(call, [True, False])
    assert ended == [True]
