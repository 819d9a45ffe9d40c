"""Games that a lab brings: three classes, episodes of unlike length, and what is said of bad ones."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EXPERIMENTS
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import SampleBatch
from ray.rllib.utils.pre_checks.env import check_multiagent_environments
from typer.testing import CliRunner

from rllib_tag import CommEnv, evaluate, restore
from rllib_tag.cli import app
from rllib_tag.errors import ConfigError
from rllib_tag.experiment.experiment import parse_experiments
from rllib_tag.experiment.spec import load_experiments
from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.network import AdversaryNet
from rllib_tag.nn.team import receiver_rows
from rllib_tag.playing.restore import export
from rllib_tag.plugin.env_config import CommEnvConfig
from rllib_tag.plugin.exact_resume import NOTE
from rllib_tag.plugin.old_api_stack.runner import TagRunner
from rllib_tag.plugin.old_api_stack.sampler import BatchedSampler
from rllib_tag.plugin.old_api_stack.team_ppo import TeamPPOConfig
from rllib_tag.plugin.runner_errors import RunnerError
from rllib_tag.plugin.team_rows import unpack
from rllib_tag.training.train import TrialEnd
from rllib_tag.world.layout import Senses

RESCUE = "labs_games.Rescue"
POLICIES = ["medic", "driver", "pilot"]


def build(batched: bool, **options: Any) -> Any:
    """PPO on the three-class game, in this process and greedy, so that both samplers act alike."""
    (spec,) = load_experiments(EXPERIMENTS / "games" / "speaker_listener.yaml").values()
    config = {**spec["config"], "env": "rllib_tag.CommEnv", "num_env_runners": 0, "num_envs_per_env_runner": 3}
    config["env_config"] = {"game": RESCUE, "near": 0.4, "comm_range": 0.9, "history_length": 3}
    config["model"]["custom_model_config"] = {"hidden_dim": 16, "encoder": "class"}
    config["multiagent"]["policies"] = POLICIES
    config |= {"rollout_fragment_length": 20, "train_batch_size": 60, "minibatch_size": 20, "explore": False, **options}
    made = TeamPPOConfig().update_from_dict(config)
    made.env_runner_cls = BatchedSampler if batched else TagRunner
    return getattr(made, "build_algo", made.build)()


def test_a_game_of_three_classes_is_what_rllib_and_the_layout_expect() -> None:
    env = CommEnv(game=RESCUE, comm_range=0.9)
    check_multiagent_environments(env)
    layout = env.games.game.layout
    assert layout.senses == Senses(
        ("medic", "driver", "pilot"), (2, 2, 3), {"casualty": 2, "road": 4}, {"team": 2, "casualty": 2}
    )
    assert layout.counts == {"casualty": 7, "road": 3}
    observations, _ = env.reset(seed=3)
    said = observations["driver_0"]["messages"][2, -1]
    assert said.shape == (layout.width,) == (3 + 7 * 2 + 3 * 4 + 2 + 3,)
    world = env.par_env.unwrapped
    np.testing.assert_allclose(said[layout.own], [*world.places[2], 0], atol=1e-6)
    assert (said[layout.entities("casualty")] == 0).all()
    roads = np.concatenate([world.casualties[:3], world.casualties[1:4]], axis=-1)
    np.testing.assert_allclose(said[layout.entities("road")], roads.ravel(), atol=1e-6)
    assert [said[layout.seen(kind)] for kind in ("casualty", "road")] == [0, 1]
    assert said[layout.one_hot].tolist() == [0, 1, 0]


def test_the_number_of_entities_may_vary_from_game_to_game() -> None:
    env = CommEnv(game="labs_games.SomeLandmarks", comm_range="inf")
    check_multiagent_environments(env)
    layout, numbers = env.games.game.layout, set()
    net = AdversaryNet(5, CommConfig(hidden_dim=16, num_heads=2), continuous=False, senses=layout.senses)
    for seed in range(6):
        observations, _ = env.reset(seed=seed)
        rows = {key: torch.from_numpy(value[None]) for key, value in observations["agent_1"].items()}
        number = int(rows["landmarks_present"].sum())
        numbers.add(number)
        said = rows["messages"][..., layout.seen("landmarks")]  # (1, 3, T): agent 0 sees them, the others do not
        assert said[0, :, -1].tolist() == [1 + number, 0, 0]
        outputs = []
        for beyond in (0, 5):  # what stands in an empty place is not read
            marks = rows["messages"][:, 0, -1, layout.entities("landmarks")].unflatten(1, (3, 2))
            marks[:, number:] = beyond
            rows["landmarks"][:, number:] = beyond
            with torch.no_grad():
                logits, features = net(rows, layout)
                outputs.append((logits, net.value(rows, features)))
        torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    assert numbers == {2, 3}


def test_episodes_of_unlike_length_are_sampled_as_rllib_samples_them(ray_session: None) -> None:
    """Observations, rewards, values and advantages, with episodes that end by themselves and that run out of steps."""
    plain, ours = build(False), build(True)
    generator = torch.Generator().manual_seed(5)
    for name, policy in sorted(plain.env_runner.policy_map.items()):  # their order is a set's
        for parameter in policy.model.net.actor.parameters():
            parameter.data.normal_(std=0.5, generator=generator)
        ours.get_policy(name).set_weights(policy.get_weights())
    expected, batch = plain.env_runner.sample(), ours.env_runner.sample()
    assert batch.env_steps() == expected.env_steps() == 60
    columns = (SampleBatch.REWARDS, SampleBatch.VF_PREDS, Postprocessing.ADVANTAGES, Postprocessing.VALUE_TARGETS)
    lengths = set()
    for name in POLICIES:
        part, rows = batch.policy_batches[name], expected.policy_batches[name]
        policy = ours.get_policy(name)
        obs = {key: torch.from_numpy(value) for key, value in part[SampleBatch.OBS].items()}
        obs["links"] = unpack(obs["links"], 5)
        taken = receiver_rows(obs, obs["receivers"][0], 2)
        order = policy.observation_space.original_space.spaces
        seen = torch.cat([taken[key].flatten(1) for key in order], dim=1).numpy()
        places = [int(np.abs(seen - row).max(1).argmin()) for row in rows[SampleBatch.OBS]]
        assert sorted(places) == list(range(len(seen)))
        np.testing.assert_allclose(seen[places], rows[SampleBatch.OBS], atol=1e-5)
        for column in columns:
            ours_flat = np.asarray(part[column]).reshape(-1)[places]
            np.testing.assert_allclose(ours_flat, rows[column], rtol=1e-3, atol=1e-4, err_msg=column)
        ends = np.flatnonzero(rows[SampleBatch.TERMINATEDS])
        lengths |= {int(rows[SampleBatch.T][end]) + 1 for end in ends}
    assert lengths
    assert max(lengths) < 11
    for runner in (plain, ours):
        runner.stop()


def test_it_trains_exports_and_is_evaluated(ray_session: None, tmp_path: Path) -> None:
    ours = build(True, explore=True)
    assert np.isfinite(ours.train()["info"]["learner"]["pilot"]["learner_stats"]["total_loss"])
    ours.save(str(tmp_path / "checkpoint"))
    ours.stop()
    team = restore(tmp_path / "checkpoint")
    exported = restore(export(tmp_path / "checkpoint", tmp_path / "exported"))
    found = [
        evaluate(one, episodes=5, baselines=["random"], messages=["cut", "silence:driver_0"])
        for one in (team, exported)
    ]
    assert found[0].rows == found[1].rows
    summary = found[0].summary()
    assert set(summary) == {"team", "random", "cut", "silence:driver_0"}
    assert {"return_team", "return_medic", "return_driver", "return_pilot", "near_steps", "mean_links"} == {
        key for key in summary["team"]
    }
    assert "return_minus_team" in summary["random"]
    assert {row["policy"] for row in found[0].influence} == set(POLICIES)
    with pytest.raises(ConfigError, match="baseline: expected one of random, got 'all_chase'"):
        evaluate(team, episodes=2, baselines=["all_chase"])
    with pytest.raises(ConfigError, match=r"which was trained to see .*, got one that shows"):
        evaluate(team, episodes=2, game="labs_games.MoreToSee")


def test_a_module_that_cannot_be_imported_is_named_and_the_checkpoint_is_not_blamed(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = build(True)
    ours.save(str(tmp_path / "checkpoint"))
    ours.stop()
    export(tmp_path / "checkpoint", tmp_path / "exported")
    for option in ("--num-class-a", "--num-good"):
        error = CliRunner().invoke(app, ["evaluate", str(tmp_path / "exported"), option, "1"]).exception
        assert isinstance(error, ConfigError)
        assert str(error) == (
            f"{option}: expected a team of tag, which has this option, got one of {RESCUE}. Leave the option out."
        )
    for team, other in (("tag", "own"), ("own", "tag")):
        teams = {"tag": restore(), "own": restore(tmp_path / "exported")}
        games = {"tag": "tag", "own": RESCUE}
        with pytest.raises(
            ConfigError, match=rf"^beside: x: expected a team of {games[team]}, got one of {games[other]}"
        ):
            evaluate(teams[team], episodes=1, beside={"x": teams[other]})
    with pytest.raises(ConfigError, match=r"^rollout: expected a team of tag, got one of labs_games\.Rescue"):
        restore(tmp_path / "exported").tag_config_for("rollout", num_class_a=2)
    monkeypatch.setitem(sys.modules, "labs_games", None)  # as if Python did not find it
    for name in ("checkpoint", "exported"):
        with pytest.raises(ConfigError, match=r"env_config: game: cannot import 'labs_games\.Rescue'") as found:
            restore(tmp_path / name).env_config_for()
        assert str(found.value).endswith("or put the folder of the module on PYTHONPATH.")
        assert not re.search(r"truncated|damaged|\.\.", str(found.value).replace("...", ""))


def test_a_module_that_a_checkpoint_pickles_is_named(trained: TrialEnd, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(next(trained.folder.glob("checkpoint_*")), tmp_path / "checkpoint")
    (checkpoint / "policies" / "class_a" / "policy_state.pkl").write_bytes(b"cno_such_lab.models\nNet\n.")
    with pytest.raises(ConfigError, match=r"the modules that it needs, got: No module named 'no_such_lab'\. Install"):
        restore(checkpoint)


@pytest.mark.parametrize(
    ("name", "where", "what"),
    [
        ("FactsRaise", "FactsRaise.facts", "KeyError: 'place'"),
        ("StepRaises", "_StepRaises.step", "ValueError: need at least one array to stack"),
    ],
)
def test_an_exception_in_a_game_is_named_with_its_method_file_and_line(name: str, where: str, what: str) -> None:
    specs = load_experiments(EXPERIMENTS / "games" / "speaker_listener.yaml")
    config = specs["speaker_listener"]["config"]
    config["env_config"], config["multiagent"]["policies"] = {"game": f"labs_games.{name}"}, POLICIES
    with pytest.raises(ConfigError) as found:
        parse_experiments(specs)
    place = rf"played, got {what}, raised in {where} \(.*labs_games\.py, line \d+\)\. Correct the game\.$"
    assert re.search(place, str(found.value))


def test_whole_episodes_of_unlike_length_are_left_to_rllibs_sampler(ray_session: None) -> None:
    specs = load_experiments(EXPERIMENTS / "games" / "speaker_listener.yaml")
    specs = {"rescue": next(iter(specs.values()))}
    config = specs["rescue"]["config"]
    config["env_config"] = {"game": RESCUE}
    config["multiagent"]["policies"] = POLICIES
    assert parse_experiments(specs)[0].default_sampler_reason is None
    config.update(evaluation_interval=1)
    reason = "complete episodes of different lengths"
    assert parse_experiments(specs)[0].default_sampler_reason == reason
    config.update(evaluation_interval=None, batch_mode="complete_episodes")
    assert parse_experiments(specs)[0].default_sampler_reason == reason
    ours = build(True, env_config={"game": "labs_games.SaidToBeAlike", "near": 0.8}, batch_mode="complete_episodes")
    with pytest.raises(RunnerError, match="SaidToBeAlike: expected episodes of max_cycles = 11 steps"):
        ours.env_runner.sample()
    ours.stop()


def test_games_that_cannot_be_saved_start_over_which_is_said(ray_session: None, tmp_path: Path) -> None:
    first, again = build(True), build(True)
    first.save(str(tmp_path))
    again.restore(str(tmp_path))
    assert again.train()[NOTE] == "env runner 0 plays games that cannot be saved; they start over"
    for algorithm in (first, again):
        algorithm.stop()


@pytest.mark.parametrize(
    ("game", "message"),
    [
        ("labs_games.Nothing", r"cannot import 'labs_games.Nothing'"),
        ("labs_games.RescueEnv", "expected a subclass of Game"),
        ("labs_games.NobodyIsADriver", "expected at least one agent per class, got none in 'driver'"),
        (
            "labs_games.SomebodyIsForgotten",
            r"expected each agent of the env \(medic_0, .*exactly once in classes or others",
        ),
        ("labs_games.FlatView", r"see, medic: expected casualty of shape \(agents, entities, 2 or more\)"),
        (
            "labs_games.ViewOfChangingLength",
            r"see, medic: casualty: expected shape .*, 7, 2\), .* got .*, 6, 2\)",
        ),
        ("labs_games.PositionsInSpace", r"positions: expected shape \(5, 2\), got \(5, 3\)"),
        ("labs_games.NoTeam", "state: expected the kind 'team', got casualty"),
        (
            "labs_games.SomebodyLeavesEarly",
            "game 0: expected all team members to leave an episode together, got medic_1 leaving before",
        ),
        ("labs_games.NotANumber", "NotANumber.step: expected finite numbers, got rewards/driver_0 = nan"),
        ("labs_games.ManyActions", r"expected actions in Discrete\(n\) or Box\(0, 1, \(n,\)\), got MultiDiscrete"),
        ("labs_games.NoTruncations", "expected terminations and truncations of all team members, got none for medic_0"),
        (
            "labs_games.OneKindInTwoSizes",
            r"see, driver: expected casualty \(entities, numbers\) of shape \(7, 2\) .* got \(5, 2\)",
        ),
        ("labs_games.OthersLearn", "config: env_config: game: expected agents outside the team to act by act_others"),
        ("labs_games.StartsOnce", "env_config: game: expected a game that can be played, got OSError: the map is gone"),
    ],
)
def test_a_bad_game_is_named_before_any_worker_starts(game: str, message: str) -> None:
    experiments = load_experiments(EXPERIMENTS / "games" / "speaker_listener.yaml")
    (spec,) = experiments.values()
    spec["config"]["env_config"] = {"game": game}
    spec["config"]["multiagent"]["policies"] = POLICIES
    with pytest.raises(ConfigError, match=message) as found:
        parse_experiments(experiments)
    assert "functools" not in str(found.value)


def test_own_games_stop_at_metrics_that_they_have() -> None:
    experiments = load_experiments(EXPERIMENTS / "games" / "spread.yaml")
    experiments["spread"]["stop"] = {"return_team_mean": -10, "mean_links_max": 2}
    parse_experiments(experiments)
    experiments["spread"]["stop"] = {"return_adversary_mean": -10}
    with pytest.raises(ConfigError, match="stop: unknown key 'return_adversary_mean'"):
        parse_experiments(experiments)


def test_the_key_of_an_error_is_named_once() -> None:
    experiments = load_experiments(EXPERIMENTS / "games" / "spread.yaml")
    for key, message in (
        ("comm_hops", "config: env_config: comm_hops: expected"),
        ("hops", "config: env_config: expe"),
    ):
        env_config = {**experiments["spread"]["config"]["env_config"], key: -1}
        changed = {"spread": {**experiments["spread"], "config": {**experiments["spread"]["config"]}}}
        changed["spread"]["config"]["env_config"] = env_config
        with pytest.raises(ConfigError, match=f"^spread: {message}"):
            parse_experiments(changed)


def test_a_team_is_not_played_where_actions_are_others(ray_session: None, tmp_path: Path) -> None:
    algorithm = build(True)
    team = restore(algorithm.save(str(tmp_path)).checkpoint.path)
    algorithm.stop()
    assert team.env_config_for().game.action_spaces["medic_0"].n == 5
    with pytest.raises(
        ConfigError, match=r"medic: .* discrete with 5 outputs, as trained, got Discrete\(3\) for medic_0"
    ):
        team.env_config_for(game="labs_games.FewerActions")


def test_what_the_game_does_not_take_is_named() -> None:
    with pytest.raises(ConfigError, match=r"or the arguments of labs_games.Rescue \(max_cycles, near\): .*'far'"):
        CommEnvConfig.from_mapping({"game": RESCUE, "far": 3})
    with pytest.raises(ConfigError, match=r"expected game, the import path of a rllib_tag\.Game, got none"):
        CommEnv(comm_range=1.0)
