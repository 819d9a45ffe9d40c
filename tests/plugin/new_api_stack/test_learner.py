"""Learning on RLlib's new API stack: the old stack's updates, and learners that agree."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from rllib_tag.nn.team import receiver_rows
from rllib_tag.plugin.new_api_stack.learner import CommLearner
from rllib_tag.plugin.new_api_stack.team_ppo import TeamPPO, _shards
from rllib_tag.plugin.parallel import mapping
from rllib_tag.plugin.team_rows import standardize_advantages, unpack
from rllib_tag.world.roster import Mixture

from .conftest import build, build_old, nets_of, same_weights, weights_of

EPS = 1e-2  # of Adam, whose first step is otherwise the sign of a gradient, even of one that is rounding
LEARNED = {"good_policy": "learned", "num_good": 2}


def with_eps(learner: CommLearner) -> None:
    for optimizer in learner._named_optimizers.values():
        for group in optimizer.param_groups:
            group["eps"] = EPS


def update(new: TeamPPO, batch: MultiAgentBatch, num_minibatches: int = 1, num_epochs: int = 1) -> None:
    """Epochs of a batch, on the learner in this process or on several."""
    learners = new.config.num_learners
    parts: dict[str, Any] = {"batch": batch}
    if learners:
        parts = {"batches": _shards(batch, learners)}
    new.learner_group.update(
        **parts, timesteps={"num_env_steps_sampled_lifetime": 0}, num_epochs=num_epochs,
        num_minibatches=num_minibatches, shuffle_seed=(3,),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("env_config", "model"),
    [
        ({}, {}),
        ({"num_class_a": 3, "num_class_b": 1}, {"encoder": "shared"}),
        ({"continuous_actions": True}, {"encoder": "shared", "critic": "local"}),
        (LEARNED, {"encoder": "shared"}),
        ({"num_class_a": [1, 3], "num_class_b": [0, 2]}, {"encoder": "shared"}),
    ],
    ids=str,
)
def test_an_update_gives_the_old_stacks_weights(
    env_config: dict[str, Any], model: dict[str, Any], ray_session: None
) -> None:
    """One step of both stacks on the same rows, gradients clipped."""
    policies = ["class_a", "class_b", *(["good"] if env_config is LEARNED else [])]
    options = {"model": model, "policies": policies, "explore": True, "grad_clip": 0.05}
    old = build_old(True, env_config, **options, minibatch_size=0, num_epochs=1)
    new = build(True, env_config, **options)
    same_weights(old, new)
    for policy in old.env_runner.policy_map.values():
        policy._optimizers[0].param_groups[0]["eps"] = EPS
    with_eps(new.learner_group._learner)
    batch = standardize_advantages(old.env_runner.sample())
    before = {name: weights_of(net) for name, net in nets_of(new)[1].items()}
    update(new, copy.deepcopy(batch))
    old._learn(batch)
    for name, net in nets_of(new)[1].items():
        wanted = weights_of(old.get_policy(name).model.net)
        after = weights_of(net)
        moved = max(np.abs(after[key] - before[name][key]).max() for key in after)
        assert moved > 1e-4
        for key, value in wanted.items():
            np.testing.assert_allclose(after[key], value, rtol=0, atol=5e-3 * moved, err_msg=key)


def test_epochs_of_minibatches_move_weights_as_on_the_old_stack(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten updates with Adam as it comes, on the same minibatches."""
    options = {
        "model": {"encoder": "shared"}, "explore": True, "num_epochs": 2, "minibatch_size": 60, "lr": 0.002,
        "lr_schedule": None, "rollout_fragment_length": 50, "train_batch_size": 150,
    }  # fmt: skip
    old, new = build_old(True, {}, **options), build(True, {}, **options)
    same_weights(old, new)
    before = {name: weights_of(net) for name, net in nets_of(new)[1].items()}
    batch = standardize_advantages(old.env_runner.sample())
    rng = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda *seed: rng(7))
    update(new, copy.deepcopy(batch), num_minibatches=5, num_epochs=2)
    old._learn(batch)
    for name, net in nets_of(new)[1].items():
        after, wanted = weights_of(net), weights_of(old.get_policy(name).model.net)
        moved, off = (
            sum(np.square(after[key] - each[key]).sum() for key in after) ** 0.5 for each in (before[name], wanted)
        )
        assert off < 0.01 * moved


@pytest.mark.parametrize(
    ("env_config", "model"),
    [
        ({}, {"encoder": "shared"}),
        ({"num_class_a": 3, "num_class_b": 1, "comm_hops": 1}, {"critic": "local"}),
        (LEARNED, {"encoder": "shared", "critic": "shared"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("num_parts", [1, 3])
def test_rows_of_team_states_have_the_loss_and_the_gradients_of_plain_rows(
    env_config: dict[str, Any], model: dict[str, Any], num_parts: int, ray_session: None
) -> None:
    """The same minibatch, encoded once for the team, in one or more parts, and as each receiver's own observation."""
    policies = ["class_a", "class_b", *(["good"] if env_config is LEARNED else [])]
    new = build(True, env_config, model=model, policies=policies, explore=True)
    learner = new.learner_group._learner
    learner.module.parts = num_parts, mapping("parts", num_parts, 1)
    (batch,) = new.env_runner.sample()
    standardize_advantages(batch)
    (rows,) = learner._team_minibatches(batch, num_epochs=1, num_minibatches=1, shuffle_seed=(0,))
    plain = {}
    for name, part in rows.policy_batches.items():
        obs = dict(part[Columns.OBS])
        if "receivers" in obs:
            obs["links"] = unpack(obs["links"], obs["messages"].shape[2])
            obs = receiver_rows(obs, obs["receivers"][0], env_config.get("comm_hops", 2))
        plain[name] = SampleBatch({**part, Columns.OBS: obs})
    losses, gradients = [], []
    for minibatch in (rows.policy_batches, plain):
        found = learner.compute_losses(fwd_out=learner.module.forward_train(minibatch), batch=minibatch)
        losses.append(found)
        gradients.append(
            {ref: grad.clone() for ref, grad in learner.compute_gradients(found).items() if grad is not None}
        )
    for name, loss in losses[0].items():
        torch.testing.assert_close(loss, losses[1][name], rtol=1e-4, atol=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    for ref, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][ref], rtol=1e-3, atol=1e-4)


def test_a_shared_encoder_learns_on_the_cpus_of_the_run(ray_session: None, three_cpus: list[tuple[int, int]]) -> None:
    new = build(True, {}, model={"encoder": "shared"}, num_cpus_for_main_process=3, num_env_runners=0)
    (batch,) = new.env_runner.sample()
    update(new, batch)
    assert len(three_cpus) == 3
    threads, rows = (set(each) for each in zip(*three_cpus, strict=True))
    assert threads == {1}
    assert max(rows) - min(rows) <= 1


def test_each_weight_has_one_optimizer(ray_session: None) -> None:
    new = build(True, {}, model={"encoder": "shared", "critic": "shared"})
    learner = new.learner_group._learner
    owned = [
        weight for optimizer in learner._named_optimizers.values() for weight in optimizer.param_groups[0]["params"]
    ]
    assert len(owned) == len({id(weight) for weight in owned})
    nets = nets_of(new)[1]
    assert {id(weight) for weight in owned} == {id(w) for net in nets.values() for w in net.parameters()}
    assert nets["class_a"].encoder is nets["class_b"].encoder
    assert nets["class_a"].critic is nets["class_b"].critic
    assert nets["class_a"].actor is not nets["class_b"].actor
    assert list(learner._named_optimizers) == ["class_a_shared", "class_a_own", "class_b_own"]


@pytest.mark.parametrize(("arrays", "encoder"), [(True, "shared"), (True, "class"), (False, "shared")])
def test_training_changes_all_weights_and_runners_get_them(arrays: bool, encoder: str, ray_session: None) -> None:
    new = build(arrays, {}, model={"encoder": encoder, "critic": "shared"}, explore=True)
    before = {name: weights_of(net) for name, net in nets_of(new)[1].items()}
    result = new.train()
    assert result["num_env_steps_sampled_lifetime"] >= 15
    sampling, learning = nets_of(new)
    for name, net in learning.items():
        after = weights_of(net)
        still = [key for key, value in after.items() if np.array_equal(value, before[name][key])]
        assert not [key for key in still if key.startswith(("actor", "critic"))]
        assert len(still) < len(after) / 2
        for key, value in weights_of(sampling[name]).items():
            np.testing.assert_array_equal(value, after[key], err_msg=key)


def test_a_policys_own_config(ray_session: None) -> None:
    """Rates, discounts and networks, of which the new stack's modules have their own as the old one's policies have."""
    own = {"lr": 0.5, "lambda": 0.1, "model": {"custom_model_config": {"hidden_dim": 20, "encoder": "class"}}}
    policies = {"class_a": [None, None, None, own], "class_b": [None, None, None, {}]}
    new = build(True, {}, policies=policies, lr=0.25, **{"lambda": 0.9})
    result = new.train()["learners"]
    assert (result["class_a"]["own_learning_rate"], result["class_b"]["own_learning_rate"]) == (0.5, 0.25)
    assert {name: net.config.hidden_dim for name, net in nets_of(new)[1].items()} == {"class_a": 20, "class_b": 28}
    actors = new.env_runner._playing()._actors
    assert (actors["class_a"].lambda_, actors["class_b"].lambda_) == (0.1, 0.9)


@pytest.mark.parametrize("trained", [["class_b"], []])
def test_policies_to_train(trained: list[str], ray_session: None) -> None:
    """Also in games in which those to train take no part."""
    game = {"num_class_a": 1, "num_class_b": [0, 2], "max_cycles": 3}
    multiagent = {
        "policies": ["class_a", "class_b"],
        "policy_mapping_fn": {"type": "rllib_tag.ClassPolicyMapping"},
        "policies_to_train": trained,
    }
    new = build(True, game, explore=True, minibatch_size=1, multiagent=multiagent)
    before = {name: weights_of(net) for name, net in nets_of(new)[1].items()}
    for _ in range(3):
        new.train()
    after = {name: weights_of(net) for name, net in nets_of(new)[1].items()}
    for name, weights in before.items():
        same = all(np.array_equal(after[name][key], value) for key, value in weights.items())
        assert same == (name not in trained)


@pytest.mark.parametrize("column", [Columns.ACTION_LOGP, "advantages"])
def test_numbers_that_are_not_finite_end_the_run_and_name_their_place(column: str, ray_session: None) -> None:
    new = build(True, {}, explore=True)
    (batch,) = new.env_runner.sample()
    batch.policy_batches["class_b"][column][1, 2, 0] = np.nan
    before = weights_of(nets_of(new)[1]["class_a"])
    with pytest.raises(FloatingPointError, match=rf"loss of class_b: expected a finite number.*{column}\[\d+\] = nan"):
        update(new, batch)
    after = weights_of(nets_of(new)[1]["class_a"])
    assert all(np.array_equal(after[key], value) for key, value in before.items())


def test_a_gradient_that_is_not_finite_ends_the_run(ray_session: None) -> None:
    new = build(True, {}, explore=True)
    weight = next(nets_of(new)[1]["class_b"].actor.parameters())
    weight.register_hook(lambda grad: grad * np.inf)
    with pytest.raises(FloatingPointError, match="gradient: expected a finite norm"):
        update(new, new.env_runner.sample()[0])


def learners_weights(new: TeamPPO) -> list[dict[str, dict[str, np.ndarray]]]:
    """The weights of each learner, by module."""
    found = new.learner_group.foreach_learner(
        lambda learner: {name: weights_of(module.net) for name, module in learner.module.items()}
    )
    return [result.get() for result in found]


@pytest.mark.parametrize(
    ("learners", "env_config", "model"),
    [
        (2, {"num_class_a": 3, "num_class_b": 1}, {"encoder": "shared", "critic": "shared"}),
        (2, {"num_class_a": [0, 3], "num_class_b": [0, 2], "comm_range": 0.1}, {"encoder": "shared"}),
        (2, {}, {"encoder": "class", "critic": "local"}),
        (1, {}, {"encoder": "shared"}),
    ],
    ids=str,
)
def test_learners_keep_the_same_weights_and_learn_what_one_in_this_process_would(
    learners: int, env_config: dict[str, Any], model: dict[str, Any], ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of odd number, classes that are missing on one of the learners, links that reach hardly anybody."""
    options: dict[str, Any] = {"model": model, "explore": True, "use_kl_loss": True, "kl_coeff": 0.2, "kl_target": 1e-4}
    one, two = build(True, env_config, **options), build(True, env_config, **options, learners=learners)
    two.learner_group.foreach_learner(lambda learner: with_eps(learner))
    with_eps(one.learner_group._learner)
    state = one.learner_group._learner.module.get_state()
    two.learner_group.foreach_learner(lambda learner: learner.module.set_state(state))
    if isinstance(env_config.get("num_class_a"), list):
        drawn = iter([[1, 1, 1, 0, 0, 1, 1, 1]] * 3 + [[0, 0, 0, 1, 1, 1, 1, 1]] * 100)
        monkeypatch.setattr(Mixture, "draw", lambda *_: np.array(next(drawn), bool))
    (batch,) = one.env_runner.sample()
    standardize_advantages(batch)
    update(one, copy.deepcopy(batch))
    update(two, batch)
    found = learners_weights(two)
    assert len(found) == learners
    first, second = found[0], found[-1]
    for name, weights in first.items():
        wanted = weights_of(nets_of(one)[1][name])
        for key, value in weights.items():
            np.testing.assert_array_equal(second[name][key], value, err_msg=key)
            np.testing.assert_allclose(value, wanted[key], rtol=0, atol=1e-5, err_msg=key)
    for _ in range(4):
        two.train()  # several minibatches, as in a run
    found = learners_weights(two)
    for name, weights in found[0].items():
        for key, value in weights.items():
            np.testing.assert_array_equal(found[-1][name][key], value, err_msg=key)
    coefficients = two.learner_group.foreach_learner(
        lambda learner: {name: float(value) for name, value in sorted(learner.curr_kl_coeffs_per_module.items())}
    )
    coefficients = [each.get() for each in coefficients]
    assert coefficients[0] == coefficients[-1]
    assert set(coefficients[0].values()) != {0.2}
    two.stop()
