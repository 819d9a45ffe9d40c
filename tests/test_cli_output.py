"""What is shown of a run while it goes."""

from __future__ import annotations

import pytest

from rllib_tag.cli_output import Results


@pytest.mark.parametrize(
    ("agent_steps", "shown"), [(2000, "50%        400 steps      2,000 agent steps"), (400, "10%        400 steps  ")]
)
def test_steps_are_environment_steps_and_agents_steps_are_named(
    agent_steps: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = {"timesteps_total": agent_steps, "num_env_steps_sampled": 400, "time_total_s": 3.0}
    Results().show("0", result, {"timesteps_total": 4000})
    assert capsys.readouterr().out.strip().startswith(shown)
