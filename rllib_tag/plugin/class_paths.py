"""Import paths from YAML, resolved only to the kind of thing that belongs there."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import sys
from typing import Any

import gymnasium as gym
import ray

from rllib_tag.errors import ConfigError
from rllib_tag.plugin.ray_internals import env_is_registered


def resolve(what: str, path: Any) -> Any:
    """Imports what a dotted path such as `rllib_tag.TagEnv` names.

    A module is run when it is imported, before it can be known what it holds. So a path must begin with a package that
    the user chose to have: one that is installed, is on PYTHONPATH, lies beside the script that is run, or has been
    imported already. Python's own modules are never imported, nor is what is only in the current folder. What an
    installed package does when it is imported is not looked into.

    Args:
        what: What the path is for, as the message should call it.
        path: The dotted path.

    Raises:
        ConfigError: If it is not a dotted path or does not resolve.
    """
    if not isinstance(path, str) or "." not in path or not all(part.isidentifier() for part in path.split(".")):
        raise ConfigError(f"{what}: expected an import path such as package.module.Name, got {path!r}. Write it so.")
    package, _, _ = path.partition(".")
    if package in sys.stdlib_module_names:
        raise ConfigError(
            f"{what}: expected a class of an installed package, got {path!r} of Python's own library. Name another."
        )
    if package not in sys.modules and not _in_actor() and _is_only_here(package):
        raise ConfigError(
            f"{what}: expected a class of an installed package, got {path!r}, which is only in the current folder. "
            "Install it, or put the folder on PYTHONPATH."
        )
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # importing runs a module, which may raise anything
        raise ConfigError(
            f"{what}: cannot import {path!r} ({error}). Check the spelling and that the package is installed."
        ) from error


def resolve_subclass(what: str, path: Any, base: type) -> type:
    """Imports a class, as `resolve` does, and checks its kind.

    Raises:
        ConfigError: If the path does not name a subclass of `base`.
    """
    found = resolve(what, path)
    if not isinstance(found, type) or not issubclass(found, base):
        kind = f"class {found.__qualname__}" if isinstance(found, type) else type(found).__name__
        raise ConfigError(f"{what}: expected a subclass of {base.__name__}, got {path!r}, a {kind}. Name another.")
    return found


def env_class(what: str, env: Any) -> type[gym.Env] | None:
    """The class of an environment, given by itself or by its path; None for what is registered under a name.

    As RLlib has it, a name that is registered with Tune is one even if it looks like a path.

    Raises:
        ConfigError: If a path does not name an environment's class.
    """
    if isinstance(env, type):
        return env
    is_path = isinstance(env, str) and "." in env and not env_is_registered(env)
    return resolve_subclass(what, env, gym.Env) if is_path else None


def _in_actor() -> bool:
    """Whether this is one of Ray's actors, where paths arrive that were checked before Ray started."""
    return ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None


def _is_only_here(package: str) -> bool:
    """Whether Python finds a package in the current folder only because `python -m` or `-c` makes it look there."""
    main = sys.modules["__main__"]
    added = getattr(main, "__spec__", None) is not None or not hasattr(main, "__file__")
    if not added or getattr(sys.flags, "safe_path", False):
        return False
    spec = importlib.util.find_spec(package)
    if spec is None:
        return False  # importing says so better
    here = os.path.realpath(os.getcwd())
    files = list(spec.submodule_search_locations or []) or [spec.origin or ""]
    if here not in {os.path.realpath(os.path.dirname(file)) for file in files}:
        return False
    chosen = [os.path.realpath(entry) for entry in sys.path].count(here) > 1  # on PYTHONPATH, too
    return not chosen and package not in importlib.metadata.packages_distributions()
