"""Files that belong together are written together or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from rllib_tag.errors import ConfigError
from rllib_tag.files import as_csv, check_files, folders, write_files


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_a_set_replaces_its_own_and_leaves_the_rest(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("kept")
    assert write_files(tmp_path, {"a": "1", "b": b"2"}) == [tmp_path / "a", tmp_path / "b"]
    assert write_files(tmp_path, {"a": "3", "b": None}) == [tmp_path / "a"]
    assert contents(tmp_path) == {"theirs": "kept", "a": "3"}


def test_nothing_changes_where_one_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, {"a": "1", "b": "2", "c": "3"})
    write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.name == "b":
            raise OSError(28, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigError, match=r"expected a writable place, got .* \(No space left on device\)"):
        write_files(tmp_path, {"a": "4", "b": "5", "c": None})
    assert contents(tmp_path) == {"a": "1", "b": "2", "c": "3"}
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_in_the_place_of_a_file_is_named_first(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(ConfigError, match="expected a place for a file, got the folder"):
        write_files(tmp_path, {"a": "1", "b": "2"})
    assert contents(tmp_path) == {}


def test_a_name_that_is_too_long_is_said_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="File name too long"):
        check_files(tmp_path, ["a", "x" * 300])


def test_links_are_followed_and_each_folder_comes_once(tmp_path: Path) -> None:
    (tmp_path / "top" / "b").mkdir(parents=True)
    (tmp_path / "elsewhere" / "c").mkdir(parents=True)
    (tmp_path / "top" / "a").symlink_to(tmp_path / "elsewhere")
    for name in ("loop", "again"):  # paths through both would be without number
        (tmp_path / "top" / name).symlink_to(tmp_path / "top")
        (tmp_path / "elsewhere" / name).symlink_to(tmp_path / "top" / "b")
    found = [str(folder.relative_to(tmp_path / "top")) for folder in folders(tmp_path / "top")]
    assert found == [".", "a", "b", "a/c"]


def test_rows_of_other_keys_share_a_csv() -> None:
    assert as_csv([{"a": 1}, {"b": 2, "a": 3}]) == "a,b\n1,\n3,2\n"
