"""Sampling on arrays and learning on team states, against RLlib's own PPO from the same files."""

from __future__ import annotations

import copy
import os
import pickle
import re
import time
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.ppo import PPO
from ray.rllib.algorithms.ppo.ppo_torch_policy import PPOTorchPolicy
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch, concat_samples

from rllib_tag.nn.team import receiver_rows
from rllib_tag.plugin.exact_resume import NOTE, SAMPLING
from rllib_tag.plugin.fragments import STRETCH
from rllib_tag.plugin.old_api_stack.model import CommModel
from rllib_tag.plugin.old_api_stack.sampler import BatchedSampler
from rllib_tag.plugin.old_api_stack.team_policy import PER_AGENT
from rllib_tag.plugin.old_api_stack.team_ppo import TeamPPO
from rllib_tag.plugin.ray_internals import on_each_runner
from rllib_tag.plugin.team_rows import PRESENT, agent_steps, standardize_advantages, unpack
from rllib_tag.world.roster import Mixture

from .conftest import CYCLES, FRAGMENT, NUM_ENVS, build

COLUMNS = (
    SampleBatch.ACTIONS, SampleBatch.REWARDS, SampleBatch.ACTION_LOGP, SampleBatch.ACTION_DIST_INPUTS,
    SampleBatch.VF_PREDS, Postprocessing.ADVANTAGES, Postprocessing.VALUE_TARGETS,
)  # fmt: skip


def pair(env_config: dict[str, Any], **options: Any) -> tuple[PPO, TeamPPO]:
    """RLlib's own and ours, with the same weights; actors that are not near zero."""
    plain, ours = build(False, env_config, **options), build(True, env_config, **options)
    generator = torch.Generator().manual_seed(0)
    for name, policy in plain.env_runner.policy_map.items():
        for parameter in policy.model.net.actor.parameters():
            parameter.data.normal_(std=0.2, generator=generator)
        ours.get_policy(name).set_weights(policy.get_weights())
    return plain, ours


def plain_trajectories(batch: SampleBatch) -> list[dict[str, np.ndarray]]:
    """The parts of a plain batch that belong to one agent and one episode, in order of appearance."""
    keys = list(zip(batch[SampleBatch.EPS_ID].tolist(), batch[SampleBatch.AGENT_INDEX].tolist(), strict=True))
    order = list(dict.fromkeys(keys))
    return [
        {column: np.stack([row for row, key in zip(batch[column], keys, strict=True) if key == wanted])
         for column in (*COLUMNS, SampleBatch.OBS)}
        for wanted in order
    ]  # fmt: skip


GAMES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "one_layer": ({"num_class_a": 3, "num_class_b": 1}, {"model": {"num_layers": 1}}),
    "cut_off": ({"comm_hops": 1, "good_policy": "evasive"}, {}),
    "neighbors": ({"history_length": 2}, {"model": {"sequence": "neighbors"}}),
    "continuous": ({"continuous_actions": True}, {"model": {"gnn": "gatv2", "temporal": "gru"}}),
    "local_critic": ({"num_class_a": 1, "num_class_b": 2}, {"model": {"critic": "local", "gnn": "none"}}),
    "self_play": ({"good_policy": "learned", "num_good": 2}, {"policies": ["class_a", "class_b", "good"]}),
    "shared": ({"num_class_a": 3, "num_class_b": 2}, {"model": {"encoder": "shared", "frame": "receiver"}}),
    "shared_self_play": (
        {"good_policy": "learned", "comm_hops": 1},
        {"policies": ["class_a", "class_b", "good"], "model": {"encoder": "shared", "critic": "local"}},
    ),
    "mixture": (
        {
            "num_class_a": [1, 3],
            "num_class_b": [0, 2],
            "num_good": [1, 2],
            "num_obstacles": [0, 2],
            "comm_range": [0, 0.8],
            "shaping": 2.0,
            "good_policy": "evasive",
        },
        {"model": {"encoder": "shared"}},
    ),
    "mixture_self_play": (
        {"num_class_b": [0, 1, 2], "num_good": [1, 3], "good_policy": "learned"},
        {"policies": ["class_a", "class_b", "good"]},
    ),
    "complete": ({"shaping": 3.0}, {"batch_mode": "complete_episodes", "model": {"critic": "shared"}}),
}


@pytest.mark.parametrize("game", GAMES)
def test_the_same_samples(game: str, ray_session: None) -> None:
    """Observations, actions, rewards, logits, values and advantages of two fragments, a reset among them."""
    plain, ours = pair(*GAMES[game][:1], **GAMES[game][1])
    for _ in range(2):
        expected = plain.env_runner.sample()
        batch = ours.env_runner.sample()
        while expected.env_steps() < batch.env_steps():  # whole episodes come as they end, ours all at once
            expected = concat_samples([expected, plain.env_runner.sample()])
        assert batch.env_steps() == expected.env_steps()
        assert batch.policy_batches.keys() == expected.policy_batches.keys()
        for name, part in batch.policy_batches.items():
            trajectories = plain_trajectories(expected.policy_batches[name])
            columns = {column: np.asarray(part[column]) for column in COLUMNS}
            n = columns[SampleBatch.REWARDS].shape[2]
            seen = flat_observations(ours, name, batch)
            steps = len(columns[SampleBatch.REWARDS]) * columns[SampleBatch.REWARDS].shape[1] // NUM_ENVS
            by_agent = {
                column: array.reshape(NUM_ENVS, steps, n, *array.shape[3:]) for column, array in columns.items()
            }
            matched = 0
            for trajectory in trajectories:
                env, start, agent = find(seen.reshape(NUM_ENVS, steps, n, -1), trajectory[SampleBatch.OBS])
                length = len(trajectory[SampleBatch.REWARDS])
                matched += length
                for column in COLUMNS:
                    np.testing.assert_allclose(
                        by_agent[column][env, start : start + length, agent], trajectory[column],
                        rtol=1e-3, atol=2e-4, err_msg=column,
                    )  # fmt: skip
            assert matched == agent_steps(part)


def flat_observations(algorithm: TeamPPO, name: str, batch: MultiAgentBatch) -> np.ndarray:
    """Rows as RLlib's preprocessor would flatten them: (agent steps, D)."""
    policy, obs = algorithm.get_policy(name), batch.policy_batches[name][SampleBatch.OBS]
    if list(obs) == ["receivers"]:  # the policies that share an encoder have what it reads only once
        obs = {**batch.policy_batches["class_a"][SampleBatch.OBS], **obs}
    obs = {key: torch.from_numpy(value) for key, value in obs.items()}
    if "receivers" in obs:
        obs["links"] = unpack(obs["links"], obs["messages"].shape[2])
        rows = receiver_rows(obs, obs["receivers"][0], policy.config["env_config"].get("comm_hops", 2))
    else:
        rows = {key: value.flatten(0, 2) for key, value in obs.items()}
    order = policy.observation_space.original_space.spaces
    return torch.cat([rows[key].flatten(1) for key in order], dim=1).numpy()


def find(seen: np.ndarray, trajectory: np.ndarray) -> tuple[int, int, int]:
    """Where a trajectory's observations stand in (envs, steps, agents, D); they differ by rounding alone."""
    length = len(trajectory)
    envs, steps, agents, _ = seen.shape
    places = [(e, t, a) for e in range(envs) for t in range(steps - length + 1) for a in range(agents)]
    gaps = [np.abs(seen[e, t : t + length, a] - trajectory).max() for e, t, a in places]
    best = int(np.argmin(gaps))
    assert gaps[best] < 1e-4
    return places[best]


@pytest.mark.parametrize("game", ["default", "one_layer", "cut_off", "continuous", "self_play", "mixture_self_play"])
def test_an_update_gives_the_same_weights(game: str, ray_session: None) -> None:
    """One gradient step of RLlib's policy on its rows, of ours on team states: the same weights after it."""
    plain, ours = pair(*GAMES[game][:1], **GAMES[game][1])
    expected, batch = plain.env_runner.sample(), ours.env_runner.sample()
    for name, part in batch.policy_batches.items():
        before = copy.deepcopy(ours.get_policy(name).get_weights())
        for algorithm in (plain, ours):  # Adam's first step is the sign of a gradient, even of one that is rounding
            algorithm.get_policy(name)._optimizers[0].param_groups[0]["eps"] = 1e-2
            rows = part if algorithm is ours else expected.policy_batches[name]
            rows[SampleBatch.ACTION_LOGP] = log_probabilities(algorithm.get_policy(name), rows)  # 0 of greedy actions
            algorithm.get_policy(name).learn_on_batch(rows)
        after, wanted = ours.get_policy(name).get_weights(), plain.get_policy(name).get_weights()
        moved = max(np.abs(after[key] - before[key]).max() for key in after)
        assert moved > 1e-4
        for key, value in wanted.items():
            # Sums of float32 in another order: within half a per cent of the step that was taken.
            np.testing.assert_allclose(after[key], value, rtol=0, atol=5e-3 * moved, err_msg=key)


class OnRows:
    """A model in RLlib's loss, which reads each receiver's own observation."""

    def __init__(self, model: CommModel, obs: dict[str, torch.Tensor]) -> None:
        self.net, self.obs, self.tower_stats = model.net, obs, {}
        self.outputs, self.features = model.net(obs, model.layout)

    def __call__(self, batch: SampleBatch) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return self.outputs, []

    def value_function(self) -> torch.Tensor:
        return self.net.value(self.obs, self.features)


@pytest.mark.parametrize(
    ("critic", "carrier", "counts"),
    [
        ("class", 0, {}),
        ("local", 1, {}),
        ("class", 0, {"num_class_a": [1, 3], "num_good": [1, 2]}),
        ("class", 0, {"num_class_a": [0, 3], "num_class_b": [0, 2]}),  # some games have no class A, some no class B
        ("class", 0, {"num_class_b": [0, 2], "drawn": [1, 1, 1, 0, 0, 1, 1, 1]}),  # no game has class B
    ],
    ids=str,
)
def test_a_shared_encoder_learns_from_the_sum_of_all_losses(
    critic: str, carrier: int, counts: dict[str, Any], ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One update of all weights, against plain autograd on each receiver's own observation.

    Which policy's batch carries the state depends on the order of the agents, not on the names of the policies.
    """
    if drawn := counts.pop("drawn", None):
        monkeypatch.setattr(Mixture, "draw", lambda *_: np.array(drawn, bool))
    clip, eps = 1e-4, 1e-4
    model = {"encoder": "shared", "frame": "receiver", "critic": critic}
    game = {"num_class_a": 3, "num_class_b": 2, **counts}
    ours = build(True, game, model=model, minibatch_size=0, num_epochs=1, grad_clip=clip, explore=True)
    policies = [ours.get_policy(name) for name in ("class_a", "class_b")]
    encoder = policies[0].model.net.encoder
    assert policies[1].model.net.encoder is encoder
    batch = standardize_advantages(ours.env_runner.sample())
    parts = [batch.policy_batches[name] for name in ("class_a", "class_b")]
    state = {key: torch.from_numpy(value) for key, value in parts[0][SampleBatch.OBS].items()}
    state["links"] = unpack(state["links"], 5)
    losses = []
    for policy, part in zip(policies, parts, strict=True):
        obs = receiver_rows(state, torch.from_numpy(part[SampleBatch.OBS]["receivers"][0]), comm_hops=2)
        here = torch.from_numpy(part.get(PRESENT, np.ones_like(part["action_logp"]))).flatten() > 0
        obs = {key: value[here] for key, value in obs.items()}
        rows = {key: torch.from_numpy(part[key]).flatten(0, 2)[here] for key in PER_AGENT}
        if here.any():
            model = OnRows(policy.model, obs)
            losses.append(PPOTorchPolicy.loss(policy, model, policy.dist_class, SampleBatch(rows)))
        policy._optimizers[0].param_groups[0]["eps"] = eps  # else Adam's first step is the sign of a gradient
    shared = list(encoder.parameters())
    heads = [list({id(w): w for w in policy.model.parameters()}.values())[len(shared) :] for policy in policies]
    wanted = []
    for weights in (shared, *heads):
        gradients = torch.autograd.grad(
            sum(losses), weights, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        scale = (clip / torch.cat([gradient.flatten() for gradient in gradients]).norm()).clamp(max=1)
        assert scale < 1 or (drawn and weights is heads[1])
        steps = (0.002 * scale * gradient / ((scale * gradient).abs() + eps) for gradient in gradients)
        wanted.append([weight.detach() - step for weight, step in zip(weights, steps, strict=True)])
    if carrier:
        carried, receivers = (part[SampleBatch.OBS] for part in parts)
        parts[0][SampleBatch.OBS], parts[1][SampleBatch.OBS] = {"receivers": carried["receivers"]}, carried | receivers
    ours._learn(batch)
    for weights, values in zip((shared, *heads), wanted, strict=True):
        for weight, value in zip(weights, values, strict=True):
            torch.testing.assert_close(weight.detach(), value, rtol=0, atol=1e-5)


def log_probabilities(policy: Any, rows: SampleBatch) -> np.ndarray:
    """Of a batch's actions, plain or ours, by its own inputs of the action distribution."""
    inputs, actions = (torch.from_numpy(rows[key]) for key in ("action_dist_inputs", "actions"))
    lead = inputs.shape[:-1]
    logp = policy.dist_class(inputs.view(-1, inputs.shape[-1]), policy.model).logp(actions.flatten(0, len(lead) - 1))
    return logp.view(lead).numpy()


def test_a_training_step_gives_the_same_weights(ray_session: None) -> None:
    """Standardised advantages, KL loss and its coefficient, schedules and counters, by whole training iterations."""
    plain, ours = pair(
        {}, minibatch_size=0, num_epochs=1, use_kl_loss=True, kl_coeff=0.3, lr_schedule=[[0, 1e-3], [90, 1e-5]],
        entropy_coeff_schedule=[[0, 0.1], [90, 0.0]], policies_to_train=["class_b"],
    )  # fmt: skip
    for algorithm in (plain, ours):
        algorithm.get_policy("class_b")._optimizers[0].param_groups[0]["eps"] = 1e-2
    learned, wanted = train_both(plain, ours)
    for key, value in wanted["learner_stats"].items():
        assert learned["learner_stats"][key] == pytest.approx(value, rel=1e-3, abs=1e-5), key
    for key, value in plain.get_policy("class_b").get_weights().items():
        np.testing.assert_allclose(ours.get_policy("class_b").get_weights()[key], value, rtol=0, atol=1e-4, err_msg=key)
    # From here on the samples differ: plain RLlib has chosen a fragment's first actions before it learned.
    learned, wanted = train_both(plain, ours)
    for key in ("cur_kl_coeff", "cur_lr", "entropy_coeff"):
        assert learned["learner_stats"][key] == pytest.approx(wanted["learner_stats"][key]), key
    assert learned["learner_stats"]["kl"] == pytest.approx(0, abs=1e-6)


def train_both(plain: PPO, ours: TeamPPO) -> tuple[dict[str, Any], dict[str, Any]]:
    """What class B, which alone is trained, learned in an iteration of ours and of RLlib's own."""
    found = []
    for algorithm in (ours, plain):
        learned = algorithm.train()["info"]["learner"]
        assert list(learned) == ["class_b"]
        found.append(learned["class_b"])
    assert found[0]["learner_stats"].keys() == found[1]["learner_stats"].keys()
    for key in ("num_agent_steps_trained", "diff_num_grad_updates_vs_sampler_policy"):
        assert found[0][key] == found[1][key]
    return found[0], found[1]


def test_counters_and_figures_are_rllibs(ray_session: None) -> None:
    plain, ours = pair({}, rollout_fragment_length=CYCLES, train_batch_size=NUM_ENVS * CYCLES)
    expected, result = plain.train(), ours.train()
    for key in ("timesteps_total", "num_env_steps_sampled", "num_agent_steps_sampled", "num_agent_steps_trained"):
        assert result[key] == expected[key], key
    assert result["env_runners"]["custom_metrics"].keys() == expected["env_runners"]["custom_metrics"].keys()
    for key, value in expected["env_runners"]["custom_metrics"].items():
        assert result["env_runners"]["custom_metrics"][key] == pytest.approx(value, abs=1e-6), key
    assert result["env_runners"]["episode_return_mean"] == pytest.approx(expected["env_runners"]["episode_return_mean"])


@pytest.mark.parametrize("continuous", [False, True])
def test_log_probabilities_are_those_of_the_actions(continuous: bool, ray_session: None) -> None:
    ours = build(True, {"continuous_actions": continuous}, explore=True)
    part, policy = ours.env_runner.sample().policy_batches["class_a"], ours.get_policy("class_a")
    np.testing.assert_allclose(part[SampleBatch.ACTION_LOGP], log_probabilities(policy, part), rtol=1e-5, atol=1e-5)
    assert len(np.unique(part[SampleBatch.ACTIONS])) > 3


@pytest.mark.parametrize(("minibatch_size", "parts"), [(10, 3), (15, 2), (4, 8), (0, 1)])
def test_minibatches_are_equal_parts(minibatch_size: int, parts: int, ray_session: None) -> None:
    """30 agent steps of a policy; a row holds 10 of them, or fewer where a minibatch is smaller."""
    ours = build(True, {}, minibatch_size=minibatch_size)
    seen: list[int] = []
    policy = ours.get_policy("class_a")
    learn = policy.learn_on_batch
    policy.learn_on_batch = lambda batch: (seen.append(batch[SampleBatch.ACTION_LOGP].size), learn(batch))[1]
    ours.train()
    assert len(seen) == 2 * parts  # two epochs
    assert sum(seen) == 2 * 30


def test_nothing_to_train(ray_session: None) -> None:
    ours = build(True, {}, policies_to_train=[])
    before = copy.deepcopy(ours.get_policy("class_a").get_weights())
    assert ours.train()["num_env_steps_sampled"] == NUM_ENVS * FRAGMENT
    for key, value in ours.get_policy("class_a").get_weights().items():
        np.testing.assert_array_equal(value, before[key])


def test_checkpoints_go_both_ways(ray_session: None, tmp_path: Any) -> None:
    plain, ours = pair({})
    ours.train()
    ours.save(str(tmp_path / "ours"))
    plain.restore(str(tmp_path / "ours"))
    for name in ("class_a", "class_b"):
        for key, value in ours.get_policy(name).get_weights().items():
            np.testing.assert_array_equal(plain.get_policy(name).get_weights()[key], value)
    plain.train()
    plain.save(str(tmp_path / "plain"))
    ours.restore(str(tmp_path / "plain"))
    assert ours.iteration == 2
    ours.train()


@pytest.mark.parametrize("batched", [True, False])
def test_a_loss_that_is_not_finite_ends_the_run_before_the_weights(batched: bool, ray_session: None) -> None:
    algo = build(batched, {})
    policy = algo.get_policy("class_a")
    batch = algo.env_runner.sample().policy_batches["class_a"]
    place = (2, 1, 1) if batched else (3,)
    batch[Postprocessing.ADVANTAGES][place] = np.nan
    before = copy.deepcopy(policy.get_weights())
    message = re.escape(f"The minibatch contains advantages{list(place)} = nan")
    with pytest.raises(ValueError, match=message):  # RLlib's own, with ours in it
        policy.learn_on_batch(batch)
    for key, value in policy.get_weights().items():
        np.testing.assert_array_equal(value, before[key])


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_gradient_that_is_not_finite_ends_the_run_before_the_weights(value: float, ray_session: None) -> None:
    algo = build(True, {})
    policy = algo.get_policy("class_a")
    batch = algo.env_runner.sample().policy_batches["class_a"]
    before = copy.deepcopy(policy.get_weights())
    first = next(policy.model.parameters())
    hook = first.register_hook(lambda grad: torch.full_like(grad, value))
    with pytest.raises(ValueError, match=r"gradient: expected a finite norm, got nan from a loss of"):
        policy.learn_on_batch(batch)
    hook.remove()
    for key, weights in policy.get_weights().items():
        np.testing.assert_array_equal(weights, before[key])


@pytest.mark.parametrize("fragment", [pytest.param(FRAGMENT, marks=pytest.mark.nightly), "auto"])
def test_several_runners(fragment: Any, ray_session: None) -> None:
    """Remote runners sample on arrays, also fragments of different lengths, and get the learned weights."""
    ours = build(
        True, {}, num_env_runners=2, num_cpus_per_env_runner=0.5, rollout_fragment_length=fragment,
        train_batch_size=2 * NUM_ENVS * FRAGMENT if fragment == FRAGMENT else 37,
    )  # fmt: skip
    try:
        assert ours.train()["num_env_steps_sampled"] >= 2 * NUM_ENVS * FRAGMENT
        workers = on_each_runner(ours, lambda worker: (isinstance(worker, BatchedSampler), worker.get_weights()))
        assert [batched for batched, _ in workers] == [True] * 3
        for _, weights in workers[1:]:
            for key, value in workers[0][1]["class_a"].items():
                np.testing.assert_array_equal(value, weights["class_a"][key])
    finally:
        ours.stop()


@pytest.mark.nightly
def test_a_lost_runner_is_replaced(ray_session: None) -> None:
    ours = build(
        True, {}, num_env_runners=2, num_cpus_per_env_runner=0.5, train_batch_size=2 * NUM_ENVS * FRAGMENT,
        restart_failed_env_runners=True,
    )  # fmt: skip
    try:
        ours.train()
        on_each_runner(ours, lambda worker: os._exit(1) if worker.worker_index == 1 else None, local_env_runner=False)
        before, deadline = ours.iteration, time.monotonic() + 120
        while ours.env_runner_group.num_healthy_remote_workers() < 2 or ours.iteration < before + 3:
            assert time.monotonic() < deadline
            ours.train()
    finally:
        ours.stop()


def test_evaluation_plays_the_episodes_asked_for(ray_session: None) -> None:
    ours = build(
        True, {}, evaluation_interval=1, evaluation_duration=5, evaluation_config={"env_config": {"max_cycles": 3}},
    )  # fmt: skip
    result = ours.train()["evaluation"]
    assert result["env_runners"]["num_episodes"] == 5
    assert result["env_runners"]["episode_len_mean"] == 3
    assert result["num_env_steps_sampled_this_iter"] == 15
    assert result["num_agent_steps_sampled_this_iter"] == 60


def test_a_shared_encoder_learns_on_the_cpus_of_the_run(ray_session: None, three_cpus: list[tuple[int, int]]) -> None:
    cpus = {"num_cpus_for_main_process": 3, "num_env_runners": 0}
    ours = build(True, {}, model={"encoder": "shared"}, minibatch_size=0, **cpus)
    ours._learn(ours.env_runner.sample())
    assert len(three_cpus) == 3 * ours.config.num_epochs
    threads, rows = (set(each) for each in zip(*three_cpus, strict=True))
    assert threads == {1}
    assert max(rows) - min(rows) <= 1


def test_parts_of_a_minibatch_learn_what_it_would(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    before, after = [], []
    for cpus in (1, 3):
        monkeypatch.setattr(os, "cpu_count", lambda: cpus)  # noqa: B023
        ours = build(
            True, {}, model={"encoder": "shared"}, num_cpus_for_main_process=cpus, num_env_runners=0, minibatch_size=0
        )
        policies = [ours.get_policy(name) for name in ("class_a", "class_b")]
        for policy in policies:
            policy._optimizers[0].param_groups[0]["eps"] = 1e-2  # else tiny gradients count by sign
        before.append([copy.deepcopy(policy.get_weights()) for policy in policies])
        np.random.seed(0)
        ours._learn(ours.env_runner.sample())
        after.append([policy.get_weights() for policy in policies])
    for start, whole, parts in zip(before[0], *after, strict=True):
        assert any(np.abs(value - start[key]).max() > 1e-4 for key, value in whole.items())
        for key, value in whole.items():
            np.testing.assert_allclose(parts[key], value, rtol=0, atol=1e-5, err_msg=key)


def test_stretches_divide_a_fragment(ray_session: None) -> None:
    for fragment, stretch in ((FRAGMENT, 5), (11, 1), (2 * STRETCH, STRETCH), (9, 9)):
        ours = build(True, {}, rollout_fragment_length=fragment, train_batch_size=NUM_ENVS * fragment, minibatch_size=0)
        part = ours.env_runner.sample().policy_batches["class_b"]
        assert part[SampleBatch.REWARDS].shape == (NUM_ENVS * fragment // stretch, stretch, 2)
        assert part[SampleBatch.OBS]["messages"].shape[:2] == (NUM_ENVS * fragment // stretch, stretch + 3)


def test_a_batch_grows_with_the_team_and_not_with_its_square(ray_session: None) -> None:
    """A plain row holds the whole team's messages, so that 16 adversaries take about four times the bytes of 4 each."""
    sizes = {}
    for n in (4, 16):
        plain, ours = (
            build(batched, {"num_class_a": n // 2, "num_class_b": n // 2}, minibatch_size=0)
            for batched in (False, True)
        )
        sizes[n] = [
            sum(part.size_bytes() for part in algorithm.env_runner.sample().policy_batches.values()) / n
            for algorithm in (plain, ours)
        ]
    assert sizes[16][0] > 3 * sizes[4][0]
    assert sizes[16][1] < 1.3 * sizes[4][1]


def curve(algo: TeamPPO, iterations: int) -> list[tuple[Any, ...]]:
    """What each of some iterations tells of play and learning."""
    return [told(algo.train()) for _ in range(iterations)]


def told(result: dict[str, Any]) -> tuple[Any, ...]:
    return (
        result["training_iteration"], result["timesteps_total"], result["env_runners"]["custom_metrics"],
        result["info"]["learner"]["class_a"]["learner_stats"],
    )  # fmt: skip


@pytest.mark.parametrize("runners", [0, 2])
def test_a_restored_trial_goes_on_exactly_as_it_would_have(runners: int, ray_session: None, tmp_path: Any) -> None:
    options = {
        "num_env_runners": runners, "explore": True, "seed": 3, "entropy_coeff": 0.01,
        "train_batch_size": NUM_ENVS * FRAGMENT * max(1, runners), "lr_schedule": [[0, 0.01], [500, 0]],
    }  # fmt: skip
    whole = build(True, {"comm_range": 1.0}, **options)
    curve(whole, 3)
    whole.save(str(tmp_path / "checkpoint"))
    expected = curve(whole, 3)
    again = build(True, {"comm_range": 1.0}, **options)
    curve(again, 1)
    again.restore(str(tmp_path / "checkpoint"))
    first = again.train()
    assert NOTE not in first
    assert [told(first), *curve(again, 2)] == expected
    for name in ("class_a", "class_b"):
        for key, value in whole.get_policy(name).get_weights().items():
            np.testing.assert_array_equal(again.get_policy(name).get_weights()[key], value)
    whole.stop()
    again.stop()


@pytest.mark.nightly
def test_a_restored_trial_that_does_not_go_on_exactly_says_so(ray_session: None, tmp_path: Any) -> None:
    options = {
        "num_env_runners": 2, "num_cpus_per_env_runner": 0.5, "train_batch_size": 2 * NUM_ENVS * FRAGMENT,
    }  # fmt: skip
    whole = build(True, {}, **options)
    on_each_runner(whole, lambda worker: os._exit(1) if worker.worker_index == 2 else None, local_env_runner=False)
    whole.save(str(tmp_path))
    whole.stop()
    again = build(True, {"max_cycles": 2 * CYCLES}, **options)
    again.restore(str(tmp_path))
    other = "plays different games than when the checkpoint was written; they start over"
    playing = [0, 1] if again.env_runner.env is not None else [1]  # the local one has no games before Ray 2.41
    assert again.train()[NOTE] == "; ".join(
        [f"env runner {index} {other}" for index in playing]
        + ["env runner 2 was down when the checkpoint was written; its games start over"]
    )
    assert NOTE not in again.train()
    again.stop()


def test_another_trials_checkpoint_leaves_the_random_states(ray_session: None, tmp_path: Any) -> None:
    donor = build(True, {}, explore=True, seed=3)
    donor.save(str(tmp_path / "checkpoint"))
    file = tmp_path / "checkpoint" / SAMPLING
    file.write_bytes(pickle.dumps({**pickle.loads(file.read_bytes()), "trial": "another"}))
    algo = build(True, {}, explore=True, seed=4)
    world, torch_state = algo.env_runner._player.games.world.vec, torch.get_rng_state()
    games, positions = world._rngs[0].bit_generator.state, world.positions.copy()
    algo.restore(str(tmp_path / "checkpoint"))
    assert algo.env_runner._player.games.world.vec is world
    assert world._rngs[0].bit_generator.state == games
    np.testing.assert_array_equal(world.positions, positions)
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_a_sampling_state_of_another_version_is_not_read(ray_session: None) -> None:
    runner = build(True, {}).env_runner
    state = pickle.loads(runner.sampling_state())
    before, state["games"]["games"] = runner._player.games, "written by another version"
    for other in ({key: value for key, value in state.items() if key != "format"}, {**state, "format": 0}):
        note = runner.set_sampling_state(pickle.dumps(other))
        assert note == "cannot read its games in the checkpoint, saved by another version of rllib_tag; they start over"
        assert runner._player.games is before


def test_one_optimizer_updates_a_shared_encoder(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in minibatches in which nobody of its policy's class takes part."""
    ours = build(True, {"num_class_a": [0, 2]}, model={"encoder": "shared"}, minibatch_size=4)
    encoder = {id(weight) for weight in ours.get_policy("class_a").model.net.encoder.parameters()}
    for present in ([1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]):
        monkeypatch.setattr(Mixture, "draw", lambda *_: np.array(present, bool))  # noqa: B023
        for _ in range(3):  # until all games are drawn anew
            learned = ours.train()["info"]["learner"]
    assert learned["class_a"]["num_agent_steps_trained"] > 0
    updated = {
        name: {id(weight) for weight in ours.get_policy(name)._optimizers[0].state} & encoder
        for name in ("class_a", "class_b")
    }
    assert updated == {"class_a": encoder, "class_b": set()}
