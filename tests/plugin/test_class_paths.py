"""A class path imports only what belongs there, from packages that the user chose to have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
from ray.tune.registry import register_env

import rllib_tag
from rllib_tag.errors import ConfigError
from rllib_tag.plugin.class_paths import env_class, resolve, resolve_subclass

MODULE = "import pathlib, gymnasium\npathlib.Path(r'{mark}').touch()\nclass Env(gymnasium.Env): ...\n"
CODE = "from rllib_tag.plugin.class_paths import resolve; resolve('env', 'lab.Env')"
ROOT = str(Path(rllib_tag.__file__).parents[1])


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "antigravity.x", "this.s", "functools.partial"])
def test_pythons_own_modules_are_never_imported(path: str) -> None:
    had = path.partition(".")[0] in sys.modules
    with pytest.raises(
        ConfigError, match=f"env: expected a class of an installed package, got '{path}' of Python's standard library"
    ):
        resolve("env", path)
    assert (path.partition(".")[0] in sys.modules) == had


def test_a_class_must_be_of_its_kind() -> None:
    assert resolve_subclass("env", "rllib_tag.TagEnv", gym.Env) is rllib_tag.TagEnv
    with pytest.raises(
        ConfigError, match=r"expected a subclass of Env, got 'rllib_tag.CommModel', the class CommModel"
    ):
        resolve_subclass("env", "rllib_tag.CommModel", gym.Env)
    for path in ("TagEnv", "rllib_tag..TagEnv", "rllib tag.x", 3, None):
        with pytest.raises(ConfigError, match="expected an import path such as"):
            resolve("env", path)
    with pytest.raises(ConfigError, match=r"cannot import 'no_such_package.x'"):
        resolve("env", "no_such_package.x")


def test_an_environment_is_found_as_rllib_finds_it() -> None:
    register_env("lab.game", lambda config: rllib_tag.TagEnv(config))
    found = [env_class("env", env) for env in (rllib_tag.TagEnv, "rllib_tag.TagEnv", "lab.game", "CartPole-v1")]
    assert found == [rllib_tag.TagEnv, rllib_tag.TagEnv, None, None]
    with pytest.raises(ConfigError, match=r"env: cannot import 'lab.games'"):
        env_class("env", "lab.games")


@pytest.mark.parametrize(
    ("arguments", "path", "imported"),
    [
        (["-c", CODE], [], False),
        (["-c", CODE], ["."], True),
        (["-c", f"import lab; {CODE}"], [], True),
        (["script.py"], [], True),
        (["-m", "other.script"], [], False),
        (["other/script.py"], ["."], True),
    ],
    ids=["current folder", "PYTHONPATH", "imported", "beside the script", "python -m", "command on PYTHONPATH"],
)
@pytest.mark.parametrize("package", [True, False])
def test_what_is_only_in_the_current_folder_is_not_imported(
    arguments: list[str], path: list[str], imported: bool, package: bool, tmp_path: Path
) -> None:
    (tmp_path / "lab").mkdir()
    module = tmp_path / "lab" / "__init__.py" if package else tmp_path / "lab.py"
    module.write_text(MODULE.format(mark=tmp_path / "ran"))
    (tmp_path / "script.py").write_text(CODE)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "script.py").write_text(CODE)
    if not package:
        (tmp_path / "lab").rmdir()
    found = os.pathsep.join([*(str(tmp_path) for _ in path), ROOT])
    ran = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": found},
        capture_output=True,
        text=True,
    )
    assert (tmp_path / "ran").exists() == imported
    assert (ran.returncode == 0) == imported, ran.stderr
    assert imported or "which is only in the current folder. Install it, or put the folder on PYTHONPATH" in ran.stderr


def test_an_editable_install_may_lie_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "lab.py").write_text(MODULE.format(mark=tmp_path / "ran"))
    (tmp_path / "site" / "lab-1.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "lab-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: lab\nVersion: 1\n")
    (tmp_path / "site" / "lab-1.dist-info" / "top_level.txt").write_text("lab\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}"}
    ran = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
