from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rllib_tag.errors import ConfigError
from rllib_tag.nn.config import CommConfig
from rllib_tag.nn.weights import Exported, build_net, load_exported, save_exported
from rllib_tag.plugin.env import TagEnv
from rllib_tag.plugin.env_config import TagEnvConfig

SMALL = CommConfig(hidden_dim=12, num_layers=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    nets = {name: build_net(name, SMALL, False) for name in ("class_a", "class_b", "good")}
    return save_exported(Exported(nets, {"num_class_a": 3}), tmp_path / "export")


def test_what_is_written_is_read_back(folder: Path) -> None:
    again = load_exported(folder / "manifest.json")
    assert again.env_config == {"num_class_a": 3}
    assert sorted(again.nets) == ["class_a", "class_b", "good"]
    assert again.nets["class_a"].config == SMALL
    copied = save_exported(again, folder.parent / "copy")
    for name in again.nets:
        for key, value in load_exported(copied).nets[name].state_dict().items():
            torch.testing.assert_close(value, again.nets[name].state_dict()[key], rtol=0, atol=0)


def test_what_acts_needs_no_critic(folder: Path) -> None:
    """Neither its weights nor its state: the export acts alike without the critics' files."""
    config = TagEnvConfig()
    env = TagEnv()
    obs = {key: torch.from_numpy(value)[None] for key, value in env.reset(seed=3)[0]["adversary_1"].items()}
    actor = {key: obs[key] for key in ("messages", "message_mask", "links", "self")}
    before = load_exported(folder).nets["class_a"]
    for file in folder.glob("*.critic.safetensors"):
        file.unlink()
    after = load_exported(folder).nets["class_a"]
    assert before.critic is not None
    assert after.critic is None
    torch.testing.assert_close(after(actor, config.game.layout), before(obs, config.game.layout), rtol=0, atol=0)
    again = save_exported(load_exported(folder), folder.parent / "actors")
    assert sorted(path.name for path in again.iterdir()) == [
        "class_a.safetensors", "class_b.safetensors", "good.safetensors", "manifest.json",
    ]  # fmt: skip


def test_who_may_read_the_manifest_may_read_the_weights(folder: Path) -> None:
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


def test_an_earlier_export_is_replaced_as_a_whole(folder: Path) -> None:
    save_exported(Exported({"class_a": build_net("class_a", SMALL, True)}, {}), folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "class_a.critic.safetensors",
        "class_a.safetensors",
        "manifest.json",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["export"]


@pytest.mark.parametrize("beside", ["notes.txt", "prey/notes.txt", "class_c.safetensors"])
def test_nothing_else_is_overwritten(folder: Path, beside: str) -> None:
    (folder / beside).parent.mkdir(exist_ok=True)
    (folder / beside).write_text("mine")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="which holds something else"):
        save_exported(Exported({"class_a": build_net("class_a", SMALL, True)}, {}), folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_an_empty_folder_is_taken_and_a_file_is_not(tmp_path: Path) -> None:
    exported = Exported({"class_a": build_net("class_a", SMALL, True)}, {})
    (tmp_path / "empty").mkdir()
    assert save_exported(exported, tmp_path / "empty")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="which holds something else"):
        save_exported(exported, tmp_path / "file")


def test_where_the_new_export_cannot_go_the_earlier_one_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.parent.name.startswith(".export.") and self.name == "export":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        save_exported(Exported({"class_a": build_net("class_a", SMALL, True)}, {}), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["export"]


def edit(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return apply


def truncate(folder: Path) -> None:
    file = folder / "class_a.safetensors"
    file.write_bytes(file.read_bytes()[:200])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "found none"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "expected a JSON manifest"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "expected format 'rllib_tag'"),
        (lambda folder: (folder / "class_b.safetensors").unlink(), "cannot read"),
        (truncate, "cannot read"),
        (edit(lambda m: m.update(version=99)), "expected version up to 3, got 99"),
        (edit(lambda m: m.update(extra=1)), "unknown key 'extra'"),
        (edit(lambda m: m.pop("policies")), "expected the mappings"),
        (edit(lambda m: m["policies"].update(class_c={})), "unknown key 'class_c'"),
        (edit(lambda m: m["policies"]["good"].update(file="../x")), "a file name beside the manifest"),
        (edit(lambda m: m["policies"]["good"].pop("continuous")), "expected file, continuous"),
        (edit(lambda m: m["policies"]["class_a"]["custom_model_config"].update(hidden_dim=16)), "another|architecture"),
        (edit(lambda m: m["policies"]["class_a"].update(file="good.safetensors")), "architecture"),
        (edit(lambda m: m["policies"]["class_a"].update(critic="../x")), "a file name beside the manifest"),
        (edit(lambda m: m["policies"]["class_a"].update(num_outputs=0)), "num_outputs: expected an integer"),
        (edit(lambda m: m["policies"]["class_a"]["senses"].pop("own")), "class_a: senses: expected classes and own"),
        (edit(lambda m: m["policies"]["class_a"]["senses"].update(own=[4, -1])), "senses: expected an integer"),
    ],
)
def test_damage_is_named(folder: Path, harm: Callable[[Path], object], message: str) -> None:
    harm(folder)
    with pytest.raises(ConfigError, match=message):
        load_exported(folder)


def test_an_unwritable_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="expected a writable place"):
        save_exported(Exported({"class_a": build_net("class_a", SMALL, False)}, {}), tmp_path / "file" / "export")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_an_export_never_lands_in_a_folder_that_appears_meanwhile(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, rename = tmp_path / "target", Path.rename

    def late(self: Path, to: Path) -> Path:
        target.mkdir()
        (target / "theirs").touch()
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", late)
    with pytest.raises(ConfigError, match="export: expected a writable place"):
        save_exported(load_exported(folder), target)
    assert [path.name for path in target.iterdir()] == ["theirs"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "target"]


def test_an_infinite_range_among_several_is_exported(tmp_path: Path) -> None:
    exported = Exported({"class_a": build_net("class_a", SMALL, False)}, {"comm_range": [0, math.inf]})
    found = load_exported(save_exported(exported, tmp_path / "export")).env_config
    assert TagEnvConfig(**found).comm_range == (0, math.inf)
