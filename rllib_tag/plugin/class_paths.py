"""Import paths in YAML, which resolve only to the kind of object that is expected there."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from rllib_tag.errors import ConfigError, raised


def resolve(what: str, path: Any) -> Any:
    """Imports what a dotted path such as `rllib_tag.TagEnv` names.

    Importing a module runs it, before anybody can check what it contains. A path must therefore begin with a package
    that the user chose to have: one that is installed, on PYTHONPATH, beside the script that is run, or already
    imported. Modules of Python's standard library, and those that are only in the current folder, are never imported.
    What an installed package does when it is imported is not checked.

    Args:
        what: What the path is for; error messages begin with it.
        path: The dotted path.

    Raises:
        ConfigError: If it is not a dotted path or does not resolve.
    """
    if not isinstance(path, str) or "." not in path or not all(part.isidentifier() for part in path.split(".")):
        raise ConfigError(
            f"{what}: expected an import path such as package.module.Name, got {path!r}. "
            "Give the whole path, module included."
        )
    package, _, _ = path.partition(".")
    if package in sys.stdlib_module_names:
        raise ConfigError(
            f"{what}: expected a class of an installed package, got {path!r} of Python's standard library. "
            "Name another class."
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
            f"{what}: cannot import {path!r} ({error}). Check the spelling; install the package, or put the folder of "
            "the module on PYTHONPATH."
        ) from error


def resolve_subclass(what: str, path: Any, base: type) -> type:
    """Imports a class, as `resolve` does, and checks that it is a subclass of `base`.

    Raises:
        ConfigError: If the path does not name a subclass of `base`.
    """
    found = resolve(what, path)
    if not isinstance(found, type) or not issubclass(found, base):
        kind = f"the class {found.__qualname__}" if isinstance(found, type) else f"a {type(found).__name__}"
        raise ConfigError(f"{what}: expected a subclass of {base.__name__}, got {path!r}, {kind}. Name another class.")
    return found


def built(what: str, entry: Mapping[str, Any], base: type, noun: str) -> Any:
    """Builds what a file names by a class and the arguments of its constructor.

    Args:
        what: What it is for; error messages begin with it.
        entry: The import path of the class under `type`, and the arguments.
        base: The class of which it must be a subclass.
        noun: What it is, such as `a mapping`.

    Raises:
        ConfigError: If the path does not name such a class, if it does not take these arguments, or if its constructor
            raises.
    """
    arguments = dict(entry)
    path = arguments.pop("type", None)
    kind = resolve_subclass(what, path, base)
    try:
        inspect.signature(kind).bind(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"{what}: {path}: expected the arguments {inspect.signature(kind)}, got: {error}. Use these."
        ) from error
    try:
        return kind(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error
    except Exception as error:  # a user's own class may raise anything
        raise ConfigError(
            f"{what}: expected {noun} that can be built, got {raised(error)}. Correct its class or its arguments."
        ) from error


def env_class(what: str, env: Any) -> type[gym.Env] | None:
    """Returns the class of an environment, given as a class or as an import path; None for a registered name.

    As in RLlib, a name that is registered with Tune counts as a name, even if it looks like a path.

    Raises:
        ConfigError: If a path does not name an environment class.
    """
    from rllib_tag.plugin.ray_internals import env_is_registered

    if isinstance(env, type):
        return env
    is_path = isinstance(env, str) and "." in env and not env_is_registered(env)
    return resolve_subclass(what, env, gym.Env) if is_path else None


def _in_actor() -> bool:
    """Whether this process is a Ray actor, which only gets paths that were checked before Ray started."""
    ray = sys.modules.get("ray")  # which exported weights are played without
    return ray is not None and ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None


def _is_only_here(package: str) -> bool:
    """Whether Python finds a package only because `python -m` or `-c` searches the current folder."""
    main = sys.modules["__main__"]
    added = getattr(main, "__spec__", None) is not None or not hasattr(main, "__file__")
    if not added or getattr(sys.flags, "safe_path", False):
        return False
    spec = importlib.util.find_spec(package)
    if spec is None:
        return False  # the import itself raises a clearer error
    here = os.path.realpath(os.getcwd())
    files = list(spec.submodule_search_locations or []) or [spec.origin or ""]
    if here not in {os.path.realpath(os.path.dirname(file)) for file in files}:
        return False
    chosen = [os.path.realpath(entry) for entry in sys.path].count(here) > 1  # it is also on PYTHONPATH
    return not chosen and package not in importlib.metadata.packages_distributions()
