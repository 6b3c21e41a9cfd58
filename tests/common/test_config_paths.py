# SPDX-License-Identifier: BSD-3-Clause
"""Which file is meant, and strict reading of JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nightjar.config import paths
from nightjar.config.paths import config_names, config_path, config_root, read_json, registry_path
from nightjar.errors import ConfigError
from nightjar.files import shipped_folder


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A parent of folders, with two cameras; nothing is configured by environment."""
    monkeypatch.delenv("NIGHTJAR_CONFIG_ROOT")
    for name in ("camd/test.json", "camd/guide.json", "nightjar/registry.json"):
        path = tmp_path / "etc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return tmp_path / "etc"


def test_the_folder(etc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config_root("camd") == Path("/etc/camd")
    monkeypatch.setenv("NIGHTJAR_CONFIG_ROOT", str(etc))
    assert config_root("camd") == etc / "camd"
    monkeypatch.setenv("CAMD_CONFIG_ROOT", str(tmp_path / "mine"))
    assert config_root("camd") == tmp_path / "mine"
    assert config_root("rotd") == etc / "rotd"


def test_names_and_paths(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTJAR_CONFIG_ROOT", str(etc))
    (etc / "camd" / "README").write_text("")
    (etc / "camd" / ".#test.json").symlink_to("nobody@host.1234")  # Emacs while it edits
    assert config_names("camd") == ["guide", "test"]
    assert config_names("rotd") == []
    assert config_path("camd", "test") == etc / "camd" / "test.json"


@pytest.mark.parametrize("name", ["nosuch", "", "../nightjar/registry", "/etc/passwd", "test.json"])
def test_an_unknown_name_tells_what_is_there(
    etc: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("CAMD_CONFIG_ROOT", str(etc / "camd"))
    with pytest.raises(ConfigError, match="configured there: guide, test") as refusal:
        config_path("camd", name)
    assert repr(name) in refusal.value.message
    assert "\n" not in refusal.value.message


def test_a_folder_without_configurations_tells_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAMD_CONFIG_ROOT", str(tmp_path))
    with pytest.raises(ConfigError, match=r"no \*\.json in it; set CAMD_CONFIG_ROOT"):
        config_path("camd", "test")
    monkeypatch.setenv("CAMD_CONFIG_ROOT", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="does not exist; set CAMD_CONFIG_ROOT"):
        config_path("camd", "test")


def test_the_registry_lies_beside_the_folder_in_use(
    etc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "SYSTEM_ROOT", tmp_path / "no-etc")
    assert registry_path() == shipped_folder("etc") / "nightjar" / "registry.json"
    assert registry_path(etc / "camd" / "test.json") == etc / "nightjar" / "registry.json"
    monkeypatch.chdir(etc.parent)
    monkeypatch.setenv("CAMD_CONFIG_ROOT", "etc/camd")  # relative, as one types it in a clone
    assert registry_path() == etc / "nightjar" / "registry.json"
    assert registry_path(Path("etc/camd/test.json")) == etc / "nightjar" / "registry.json"
    other = tmp_path / "other" / "nightjar" / "registry.json"
    other.parent.mkdir(parents=True)
    other.write_text("{}")
    monkeypatch.setenv("NIGHTJAR_CONFIG_ROOT", str(tmp_path / "other"))
    assert registry_path(etc / "camd" / "test.json") == other
    other.unlink()
    assert registry_path(etc / "camd" / "test.json") == etc / "nightjar" / "registry.json"


def test_the_system_s_registry(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "SYSTEM_ROOT", etc)
    assert registry_path() == etc / "nightjar" / "registry.json"


def test_no_registry_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "SYSTEM_ROOT", tmp_path)
    monkeypatch.setattr(paths, "shipped_folder", lambda _kind: tmp_path)
    with pytest.raises(ConfigError, match="set NIGHTJAR_CONFIG_ROOT"):
        registry_path()


# --- JSON ----------------------------------------------------------------------------------------


def test_an_object_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    value = {"a": [1, 2.5, None, True, "ü"], "b": {"c": {}}}
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    assert read_json(path) == value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.json:1:1: not JSON"),
        (b"\n", r"a\.json:2:1: not JSON"),
        (b"{\n", r"a\.json:2:1: not JSON"),
        (b'{"a": 1,\n}\n', r"a\.json:2:1: not JSON"),
        (b'{\n  "a": 5  # degrees\n}\n', r"a\.json:2:11: .*JSON has no comments.*'#'"),
        (b'{"a": 1, "b": 2, "a": 3}', "key 'a' is given twice"),
        (b'{"x": {"a": 1, "a": 1}}', "key 'a' is given twice"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "Infinity is not JSON"),
        (b"[1, 2]", "holds a list, not an object"),
        (b'"text"', "holds a str, not an object"),
        (b"null", "holds a NoneType, not an object"),
        (b'{"a": "\xff\xfe"}', "not UTF-8"),
        ("{\"a\u2028\": \n\n 1,}".encode(), r"a\.json:3:4"),
        (b"[" * 200_000, "recursion"),
        (b'{"a": ' + b"9" * 5000 + b"}", "integer"),
    ],
)
def test_what_is_not_an_object_in_json(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as refusal:
        read_json(path)
    assert str(path) in refusal.value.message
    assert "\n" not in refusal.value.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="Is a directory"):
        read_json(tmp_path)
