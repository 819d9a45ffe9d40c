"""Learning with modules that share weights, also from rows of team states, on any number of learners."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import tree
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from torch import Tensor, distributed

from rllib_tag.plugin.new_api_stack.module import CommModules, is_of_teams
from rllib_tag.plugin.parallel import MOST_PARTS, cpus_for_learning, mapping, torch_threads
from rllib_tag.plugin.team_rows import PRESENT
from rllib_tag.world.finite import first_not_finite

BEFORE = "env_steps_before"  # in an update's `timesteps`: those sampled before its batch
KL_COEFFS = "kl_coeffs"  # in a learner's state


class CommLearner(PPOTorchLearner):
    """RLlib's PPO learner for `CommModules`, which may share weights.

    Each weight belongs to one optimizer, and the losses of all modules are summed before the backward pass. Several
    learners sum their gradients in a fixed order, so their weights stay identical. A loss or a gradient that is not
    finite raises on all learners before it reaches the weights.
    """

    def configure_optimizers(self) -> None:
        """Registers an Adam for the weights that only one module has, and one for those that it shares with others.

        Gradients are clipped optimizer by optimizer, as on RLlib's old API stack.
        """
        holders: dict[Tensor, list[str]] = {}
        for name in sorted(self.module.keys()):
            for weight in self.get_parameters(self.module[name]):
                holders.setdefault(weight, []).append(name)
        groups: dict[tuple[str, str], list[Tensor]] = {}
        for weight, names in holders.items():
            groups.setdefault((names[0], "shared" if len(names) > 1 else "own"), []).append(weight)
        for (name, kind), weights in groups.items():
            self.register_optimizer(
                module_id=name, optimizer_name=kind, optimizer=torch.optim.Adam(weights, fused=True), params=weights,
                lr_or_lr_schedule=self.config.get_config_for_module(name).lr,
            )  # fmt: skip

    def build(self) -> None:
        """Builds modules and optimizers; an encoder that modules share encodes a minibatch in parts, on all CPUs."""
        super().build()
        local = self.config.num_learners == 0  # a remote learner has as many threads as CPUs
        self._cpus = cpus_for_learning(self.config) if local else torch.get_num_threads()
        if isinstance(self.module, CommModules) and self.device.type == "cpu":
            count = min(MOST_PARTS, self._cpus)
            self.module.parts = count, mapping("parts", count, max(1, self._cpus // count))

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Updates all schedules to the steps before this batch, also in the first update after a checkpoint."""
        super().before_gradient_based_update(timesteps=timesteps)
        sampled = timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0)
        step = timesteps.get(BEFORE, max(0, sampled - self.config.total_train_batch_size))
        for optimizer, schedule in self._optimizer_lr_schedules.items():
            self._set_optimizer_lr(optimizer, schedule.update(timestep=step))
        for name, _ in self.module.items():
            self.entropy_coeff_schedulers_per_module[name].update(timestep=step)

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Updates schedules and the coefficients of the KL loss; all learners use those of the first one."""
        super().after_gradient_based_update(timesteps=timesteps)
        if self.config.num_learners > 1:
            for name in sorted(self.module.keys()):
                distributed.broadcast(self.curr_kl_coeffs_per_module[name].data, src=0)

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Returns RLlib's state, with the adapted coefficients of the KL loss."""
        adapted = {name: (self._kl_coeff(name), float(value)) for name, value in self.curr_kl_coeffs_per_module.items()}
        return {**super().get_state(*args, **kwargs), KL_COEFFS: adapted}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores weights, optimizer moments and counters; everything else stays as this run configures it."""
        groups = [group for optimizer in self._named_optimizers.values() for group in optimizer.param_groups]
        options = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        super().set_state({key: value for key, value in state.items() if key != "should_module_be_updated"})
        groups = [group for optimizer in self._named_optimizers.values() for group in optimizer.param_groups]
        for group, own in zip(groups, options, strict=True):
            group.update(own)
        for name, (configured, value) in state.get(KL_COEFFS, {}).items():
            if name in self.module and configured == self._kl_coeff(name):
                self.curr_kl_coeffs_per_module[name].data.fill_(value)

    def start_from(self, policies: Mapping[str, tuple[Mapping[str, np.ndarray], Sequence[Mapping[str, Any]]]]) -> None:
        """Takes over weights, and what an optimizer of the old API stack remembers of them.

        Args:
            policies: By module, its weights by name, and what an optimizer remembers of each parameter, in their order;
                of a parameter that modules share, the first one counts.
        """
        remembered: dict[Tensor, Mapping[str, Any]] = {}
        for name, (weights, moments) in policies.items():
            module = self.module[name]
            module.load_state_dict({key: torch.as_tensor(value) for key, value in weights.items()})
            for weight, kept in zip(module.parameters(), moments, strict=False):
                if kept:
                    remembered.setdefault(
                        weight, {key: torch.as_tensor(each, device=self.device) for key, each in kept.items()}
                    )
        for optimizer in self._named_optimizers.values():
            for weight in optimizer.param_groups[0]["params"]:
                if weight in remembered:
                    optimizer.state[weight] = dict(remembered[weight])

    def _kl_coeff(self, name: str) -> float:
        return self.config.get_config_for_module(name).kl_coeff

    def compute_losses(self, *, fwd_out: dict[str, Any], batch: dict[str, Any]) -> dict[str, Tensor]:
        """Returns the loss of each module; one that is not finite raises with the gradients."""
        losses = super().compute_losses(fwd_out=fwd_out, batch=batch)
        self._agent_steps = {name: _agent_steps(batch[name]) for name in losses}
        self._fault = next((_fault(name, loss, batch) for name, loss in losses.items() if not loss.isfinite()), None)
        return losses

    def compute_gradients(self, loss_per_module: dict[str, Tensor], **kwargs: Any) -> dict[Tensor, Tensor]:
        """Returns the gradients of the summed losses, by weight, summed over all learners.

        A module's loss is a mean over its agent steps, so each learner's part counts by how many of them it has.

        Raises:
            FloatingPointError: If a loss is not finite; the message names the first such number in the minibatch.
        """
        losses = loss_per_module
        if self.config.num_learners > 1:
            names = sorted(self.module.keys())
            own = torch.tensor([self._agent_steps.get(name, 0) for name in names] + [self._fault is not None])
            own = own.to(self.device, torch.float32)
            total = own.clone()
            distributed.all_reduce(total)
            if total[-1] and self._fault is None:
                self._fault = "loss: expected finite numbers on all learners, but another learner's loss is not finite."
            shares = dict(zip(names, own / total.clamp(min=1), strict=False))
            losses = {name: shares[name] * loss for name, loss in losses.items()}
        if self._fault is not None:
            raise FloatingPointError(self._fault)
        gradients = super().compute_gradients(losses, **kwargs)
        return self._over_all_learners(gradients) if self.config.num_learners > 1 else gradients

    def apply_gradients(self, gradients_dict: Mapping[Tensor, Tensor]) -> None:
        """Updates the weights.

        Raises:
            FloatingPointError: If a gradient is not finite.
        """
        norm = torch.nn.utils.get_total_norm(list(gradients_dict.values()))
        if not norm.isfinite():
            raise FloatingPointError(f"gradient: expected a finite norm, got {float(norm)}. Lower lr.")
        super().apply_gradients(gradients_dict)

    def _log_metrics(self, batch: MultiAgentBatch) -> None:
        """Counts a minibatch, unless no module learns from it."""
        if batch.policy_batches:
            super()._log_metrics(batch)

    def _over_all_learners(self, gradients: Mapping[Tensor, Tensor | None]) -> dict[Tensor, Tensor]:
        """Returns the sums of all learners' gradients; weights without one on any learner have none."""
        weights = list(self._params.values())
        grads = [gradients.get(weight) for weight in weights]
        has = torch.tensor([grad is not None for grad in grads], dtype=torch.float32, device=self.device)
        filled = [
            torch.zeros_like(weight) if grad is None else grad for weight, grad in zip(weights, grads, strict=True)
        ]
        flat = torch.cat([has, *(grad.flatten() for grad in filled)])
        distributed.all_reduce(flat)
        has, *sums = flat.split([len(weights), *(weight.numel() for weight in weights)])
        return {w: part.view_as(w) for w, part, any_has in zip(weights, sums, has.tolist(), strict=True) if any_has}

    def _make_modules_ddp_if_necessary(self) -> None:
        """Sends the first learner's weights to all learners, in place of a wrapper around each module."""
        if self.config.num_learners > 1:
            for weight in self._params.values():
                distributed.broadcast(weight.data, src=0)

    def update(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Learns from a batch, on all CPUs."""
        with torch_threads(self._cpus):
            return super().update(*args, **kwargs)

    def _create_iterator_if_necessary(self, *, training_data: Any, **kwargs: Any) -> Any:
        """Returns minibatches: with `shuffle_seed`, of rows of team states; otherwise RLlib's."""
        if "shuffle_seed" not in kwargs:
            return super()._create_iterator_if_necessary(training_data=training_data, **kwargs)
        return self._team_minibatches(training_data.batch, **{key: kwargs[key] for key in TEAM_ROWS})

    def _team_minibatches(
        self, batch: MultiAgentBatch, num_epochs: int, num_minibatches: int, shuffle_seed: Sequence[int]
    ) -> Iterator[MultiAgentBatch]:
        """Yields minibatches that have the same rows of all modules.

        Args:
            batch: The rows of each module, as `GamePlayer.play` returns them.
            num_epochs: How often each row is used.
            num_minibatches: The number of minibatches per epoch, which is the same on all learners.
            shuffle_seed: For the order of the rows, which is the same on all learners.
        """
        parts = dict(sorted(batch.policy_batches.items()))
        state = {
            key: column
            for part in parts.values() if is_of_teams(part[Columns.OBS])
            for key, column in part[Columns.OBS].items() if key != "receivers"
        }  # fmt: skip
        rows, stretch = next(iter(parts.values()))[Columns.ACTION_LOGP].shape[:2]
        rng = np.random.default_rng(shuffle_seed)
        for _ in range(num_epochs):
            for chosen in np.array_split(rng.permutation(rows), num_minibatches):
                seen = {key: column[chosen] for key, column in state.items()}
                given = {}
                for name, part in parts.items():
                    taken = tree.map_structure(lambda column: column[chosen], dict(part))  # noqa: B023
                    here = taken.get(PRESENT)
                    # A class that takes part in none of these games learns nothing from them.
                    if self.should_module_be_updated(name, batch) and (here is None or here.any()):
                        given[name] = _agent_rows(taken, seen)
                yield self._convert_batch_type(MultiAgentBatch(given, env_steps=len(chosen) * stretch))


TEAM_ROWS = ("num_epochs", "num_minibatches", "shuffle_seed")  # what `_team_minibatches` is told


def _agent_rows(rows: dict[str, Any], state: Mapping[str, np.ndarray]) -> SampleBatch:
    """Returns rows of team states with one row for each agent step in all columns but the observations.

    Args:
        rows: A module's rows.
        state: What all modules of the team read.
    """
    obs = rows.pop(Columns.OBS)
    columns = {key: _flat(column) for key, column in rows.items()}
    if PRESENT in columns:
        columns[Columns.LOSS_MASK] = columns.pop(PRESENT)
    return SampleBatch(
        columns | {Columns.OBS: {**state, **obs} if is_of_teams(obs) else tree.map_structure(_flat, obs)}
    )


def _flat(column: np.ndarray) -> np.ndarray:
    """Joins the axes of rows, steps and agents."""
    return column.reshape(-1, *column.shape[3:])


def _agent_steps(part: Mapping[str, Tensor]) -> int:
    mask = part.get(Columns.LOSS_MASK)
    return len(part[Columns.ACTION_LOGP]) if mask is None else int(mask.sum())


def _fault(name: str, loss: Tensor, batch: Mapping[str, Any]) -> str:
    found = first_not_finite(dict(batch[name]))
    cause = f"The minibatch contains {found}" if found else "The minibatch is finite; lower lr"
    return f"loss of {name}: expected a finite number, got {loss.item()}. {cause}."
