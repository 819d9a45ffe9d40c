"""Exported weights: a folder with safetensors files and a JSON manifest, loaded without unpickling anything."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from rllib_tag.errors import ConfigError, check_int, check_keys, under
from rllib_tag.files import as_json
from rllib_tag.names import GOOD_POLICIES, GOOD_POLICY, POLICIES
from rllib_tag.nn.config import DEFAULTS_OF_0_1, CommConfig
from rllib_tag.nn.network import AdversaryNet, GoodNet
from rllib_tag.world.layout import Senses
from rllib_tag.world.observations import SENSES

MANIFEST = "manifest.json"
# Version 2 added each agent's policy and frozen prey. Version 3 added senses and put critics in separate files.
FORMAT_VERSION = 3
PREY = "prey"  # subfolder with the export of frozen prey
CRITIC = "critic."  # prefix of the names of a critic's weights
INSIDE = "./"  # prefix of a path relative to the manifest
POLICY_NAME = re.compile(r"\w[\w.-]*")
ADVICE = "Export the checkpoint again with `rllib export`"
Net = AdversaryNet | GoodNet


@dataclasses.dataclass(frozen=True)
class Exported:
    """The networks of all policies, and the game that they were trained on.

    Args:
        nets: Networks by policy name.
        env_config: The keys of `env_config` that the training run set.
        seed: The seed of the training run; None if it had none or is unknown. Default: None.
        env_steps: Environment steps of training; None if unknown. Default: None.
        acting: The policy of each agent in the training game; None if each policy has the name of the class that it
            controls (in tag `class_a`, `class_b`, `good`). Default: None.
    """

    nets: Mapping[str, Net]
    env_config: Mapping[str, Any]
    seed: int | None = None
    env_steps: int | None = None
    acting: Mapping[str, str] | None = None

    def prey(self) -> set[str]:
        """Returns the policies that control good agents."""
        if "game" in self.env_config:
            return set()
        if self.acting is None:
            return {GOOD_POLICY} & self.nets.keys()
        return {policy for agent, policy in self.acting.items() if agent.startswith("agent_")}


def build_net(
    policy: str, config: CommConfig, continuous: bool, senses: Senses = SENSES, num_outputs: int | None = None
) -> Net:
    """Builds a new network for a policy: a `GoodNet` for `good`, otherwise an `AdversaryNet`.

    Args:
        policy: The name of the policy.
        config: The network's configuration.
        continuous: Whether actions are continuous.
        senses: The sizes of what is seen in the game. Default: those of tag.
        num_outputs: The number of inputs of the action distribution. Default: that of tag.
    """
    if num_outputs is None:
        num_outputs = 10 if continuous else 5
    if policy == GOOD_POLICY:
        return GoodNet(num_outputs, config, continuous)
    return AdversaryNet(num_outputs, config, continuous, senses)


def _files(name: str, net: Net) -> dict[str, dict[str, torch.Tensor]]:
    """Returns a network's weights by file: the actor's, and separately the critic's, which only training needs."""
    parts: dict[str, dict[str, torch.Tensor]] = {f"{name}.safetensors": {}}
    for key, value in net.state_dict().items():
        file = f"{name}.critic.safetensors" if key.startswith(CRITIC) else f"{name}.safetensors"
        parts.setdefault(file, {})[key] = value.contiguous()
    return parts


def save_exported(exported: Exported, folder: str | os.PathLike[str]) -> Path:
    """Writes networks and `manifest.json`; on failure, the folder stays unchanged.

    `POLICY.safetensors` is all that acting needs; `POLICY.critic.safetensors` is only needed for training. If the team
    was trained against frozen prey, the folder also contains the prey's export.

    Args:
        exported: What to write.
        folder: A new folder, or an earlier export, which is replaced.

    Returns:
        The folder.

    Raises:
        ConfigError: If the folder holds anything else or cannot be written, or if the frozen prey no longer exists.
    """
    folder = Path(folder)
    check_replaceable(folder)
    for name in exported.nets:
        if not POLICY_NAME.fullmatch(name):
            raise ConfigError(
                f"export: expected policy names that are valid file names, got {name!r}. Rename it, and train again."
            )
    frozen = frozen_prey(exported.env_config)
    prey = load_exported(frozen) if frozen else None
    manifest: dict[str, Any] = {
        "format": "rllib_tag",
        "version": FORMAT_VERSION,
        "env_config": {**exported.env_config, **({"good_policy": INSIDE + PREY} if frozen else {})},
        "training": {"seed": exported.seed, "env_steps": exported.env_steps},
        "policies": {
            name: {
                "file": f"{name}.safetensors",
                **({} if net.critic is None else {"critic": f"{name}.critic.safetensors"}),
                "continuous": net.continuous,
                "num_outputs": net.num_outputs,
                **({"senses": dataclasses.asdict(net.encoder.senses)} if isinstance(net, AdversaryNet) else {}),
                "custom_model_config": dataclasses.asdict(net.config),
            }
            for name, net in exported.nets.items()
        },
        **({"acting": dict(exported.acting)} if exported.acting else {}),
    }
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as aside:
            whole = Path(aside) / folder.name
            whole.mkdir()
            for name, net in exported.nets.items():
                for file, weights in _files(name, net).items():
                    (whole / file).write_bytes(save(weights))  # `save_file` makes it readable only by its owner
            if prey is not None:
                save_exported(prey, whole / PREY)
            (whole / MANIFEST).write_text(as_json(manifest))
            _put(whole, folder, Path(aside) / "earlier")
    except OSError as error:
        raise ConfigError(f"export: expected a writable place, got {folder} ({error.strerror}).") from error
    return folder


def _put(whole: Path, folder: Path, earlier: Path) -> None:
    """Renames a folder to its final name, and an earlier one out of the way; unlike moves, renames never nest them."""
    try:
        if folder.exists():
            folder.rename(earlier)
        whole.rename(folder)
    except BaseException:
        if earlier.exists() and not folder.exists():
            earlier.rename(folder)
        raise


def check_replaceable(folder: str | os.PathLike[str]) -> None:
    """Checks that a folder does not exist yet, is empty, or holds an earlier export.

    Raises:
        ConfigError: If there is something else.
    """
    if os.path.lexists(folder) and not _is_export(Path(folder)):
        raise ConfigError(
            f"export: expected a new folder or an earlier export, got {folder}, which holds something else. "
            "Choose another folder."
        )


def _is_export(folder: Path) -> bool:
    """Whether a folder is empty or holds an export and nothing else."""
    try:
        names = {path.name for path in folder.iterdir()}
        if not names:
            return True
        manifest = json.loads((folder / MANIFEST).read_text())
        files = {entry.get(key) for entry in manifest["policies"].values() for key in ("file", "critic")}
        own = manifest["format"] == "rllib_tag" and names <= {MANIFEST, PREY, *files}
        return own and (PREY not in names or _is_export(folder / PREY))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def frozen_prey(env_config: Mapping[str, Any]) -> str | None:
    """Returns the folder of the exported weights that control the prey; None if no exported weights do."""
    good_policy = env_config.get("good_policy", GOOD_POLICIES[0])
    return good_policy if isinstance(good_policy, str) and good_policy not in GOOD_POLICIES else None


def load_exported(folder: str | os.PathLike[str]) -> Exported:
    """Loads what `save_exported` wrote.

    Args:
        folder: The export folder, or its manifest.

    Returns:
        The networks, in evaluation mode.

    Raises:
        ConfigError: If a file is missing or truncated, or does not match the manifest.
    """
    folder = Path(folder)
    folder = folder.parent if folder.name == MANIFEST else folder
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"exported weights: expected {path}, found none. {ADVICE}.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"exported weights: expected a JSON manifest in {path}, got {error}. {ADVICE}.") from error
    what = f"manifest {path}"
    if not isinstance(manifest, dict) or manifest.get("format") != "rllib_tag":
        raise ConfigError(f"{what}: expected format 'rllib_tag', got a file of another format. {ADVICE}.")
    check_keys(what, manifest, ["format", "version", "env_config", "training", "policies", "acting"])
    check_int(f"{what}: version", manifest.get("version"), 1)
    if manifest["version"] > FORMAT_VERSION:
        raise ConfigError(
            f"{what}: expected version up to {FORMAT_VERSION}, got {manifest['version']}. Update rllib_tag."
        )
    policies, env_config = manifest.get("policies"), manifest.get("env_config")
    if not isinstance(policies, dict) or not policies or not isinstance(env_config, dict):
        raise ConfigError(f"{what}: expected the mappings 'policies' and 'env_config'. {ADVICE}.")
    good_policy = env_config.get("good_policy")
    if isinstance(good_policy, str) and good_policy.startswith(INSIDE):
        env_config = {**env_config, "good_policy": str((folder / good_policy).absolute())}
    acting = manifest.get("acting")
    _check_acting(what, acting, policies, None if "game" in env_config else [*POLICIES, GOOD_POLICY])
    training = manifest.get("training", {})
    if not isinstance(training, dict):
        raise ConfigError(f"{what}: expected a mapping 'training', got {training!r}. {ADVICE}.")
    check_keys(f"{what}: training", training, ["seed", "env_steps"])
    for key, value in training.items():
        if value is not None:
            check_int(f"{what}: training: {key}", value, 0)
    prey = Exported(policies, env_config, acting=acting).prey()
    nets = {name: _load_net(folder, name, entry, what, is_prey=name in prey) for name, entry in policies.items()}
    return Exported(nets, env_config, **training, acting=acting)


def _check_acting(what: str, acting: Any, policies: Mapping[str, Any], classes: Sequence[str] | None) -> None:
    """Checks each agent's policy; without any, policies must be named after the classes, if these are known."""
    if acting is None:
        check_keys(f"{what}: policies", policies, policies if classes is None else classes)
        return
    if (
        not isinstance(acting, dict)
        or not all(isinstance(policy, str) for policy in acting.values())
        or set(acting.values()) != policies.keys()
    ):
        raise ConfigError(f"{what}: expected each agent's policy under 'acting', got {acting!r}. {ADVICE}.")


def _load_net(folder: Path, name: str, entry: Any, what: str, is_prey: bool) -> Net:
    if not isinstance(entry, dict) or not isinstance(entry.get("continuous"), bool):
        raise ConfigError(f"{what}: expected file, continuous and custom_model_config for {name}. {ADVICE}.")
    keys = ["file", "critic", "continuous", "num_outputs", "senses", "custom_model_config"]
    check_keys(f"{what}: {name}", entry, keys)
    num_outputs = entry.get("num_outputs")
    if num_outputs is not None:
        check_int(f"{what}: {name}: num_outputs", num_outputs, 1)
    with under(f"{what}: {name}"):
        senses = Senses.from_mapping(entry["senses"]) if "senses" in entry else SENSES
    tensors: dict[str, torch.Tensor] = {}
    for file in [entry.get("file"), *([entry["critic"]] if "critic" in entry else [])]:
        if not isinstance(file, str) or Path(file).name != file:
            raise ConfigError(f"{what}: expected a file name beside the manifest for {name}, got {file!r}. {ADVICE}.")
        if file == entry.get("critic") and not (folder / file).exists():
            continue  # acting does not need the critic
        try:
            tensors |= load_file(folder / file)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"exported weights: cannot read {folder / file}: {error}. {ADVICE}.") from error
    given = entry.get("custom_model_config", {})
    config = CommConfig.from_mapping({**DEFAULTS_OF_0_1, **given} if isinstance(given, dict) else given)
    kind = GOOD_POLICY if is_prey and "senses" not in entry else POLICIES[0]
    net = build_net(kind, config, entry["continuous"], senses, num_outputs)
    if not any(key.startswith(CRITIC) for key in tensors):
        net.critic = None
    load_weights(net, tensors, str(folder / entry["file"]))
    return net.eval()


def load_weights(net: nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Loads all weights of a network.

    Raises:
        ConfigError: If a name or a shape differs, because the weights belong to another architecture.
    """
    expected = net.state_dict()
    for name in sorted({*expected, *tensors}):
        want = tuple(expected[name].shape) if name in expected else "no such weight"
        got = tuple(tensors[name].shape) if name in tensors else "none"
        if want != got:
            raise ConfigError(
                f"{source}: expected weights of the configured architecture ({name}: {want}), got {got}. "
                "Use the custom_model_config that it was trained with."
            )
    net.load_state_dict(tensors)
