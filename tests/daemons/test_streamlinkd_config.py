# SPDX-License-Identifier: BSD-3-Clause
"""Configuration of links, and the file with their secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nightjar.config.load import load, parse, schema
from nightjar.errors import ConfigError
from nightjard.streamlinkd.config import StreamlinkConfig
from nightjard.streamlinkd.secret import load_secret

PROJECT = Path(__file__).resolve().parents[2]
LINK = {"name": "vcam", "role": "send", "policy": "all", "streams": ["vcam1", "vcam2"],
        "address": "far.example", "port": 9131}  # fmt: skip


def config(*links):
    value = {"daemon": "d", "log_name": "l", "control_machines": [], "links": list(links)}
    return parse(value, StreamlinkConfig, "file.json")


@pytest.mark.parametrize("path", sorted((PROJECT / "etc/streamlinkd").glob("*.json")), ids=str)
def test_shipped_configurations_are_valid(path):
    assert load(path, StreamlinkConfig).links


def test_both_ends_of_the_shipped_links_fit_together():
    ends = [
        {link.name: link for link in load(path, StreamlinkConfig).links}
        for path in sorted((PROJECT / "etc/streamlinkd").glob("*.json"))
    ]
    assert len(ends) == 2
    assert set(ends[0]) == set(ends[1])
    for name, one in ends[0].items():
        other = ends[1][name]
        assert {one.role, other.role} == {"send", "receive"}
        assert (one.policy, one.port) == (other.policy, other.port)
        assert set(one.streams.values()) == set(other.streams.values())
        assert not set(one.streams) & set(other.streams)  # both on one host


def test_streams_are_a_list_or_renamed():
    assert config(LINK).links[0].streams == {"vcam1": "vcam1", "vcam2": "vcam2"}
    renamed = config({**LINK, "streams": {"here": "there"}})
    assert renamed.links[0].streams == {"here": "there"}


def test_model_survives_the_way_to_its_process():
    link = config({**LINK, "policy": "latest", "rate": 5}).links[0]
    assert type(link).model_validate_json(link.model_dump_json()) == link


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"streams": []}, "at least 1"), ({"streams": ["a", "a"]}, "twice"),
        ({"streams": {"a": "x", "b": "x"}}, "same name"), ({"streams": ["../a"]}, "letters"),
        ({"streams": {"a": "b/c"}}, "letters"), ({"streams": "vcam1"}, "streams"),
        ({"rate": 5}, "only a sender of policy latest"), ({"depth": 4}, "only a receiver"),
        ({"policy": "latest", "checksum": "full"}, "only a sender of policy all"),
        ({"policy": "latest", "rate": 0}, "rate"), ({"policy": "latest", "budget": -1}, "budget"),
        ({"address": None}, "address: is missing"), ({"address": "host:80"}, "without port"),
        ({"port": 0}, "port"), ({"port": 70000}, "port"), ({"role": "both"}, "role"),
        ({"wire": "milk16"}, "one stream"), ({"wire": "milk24", "streams": ["a"],
                                              "secret_file": "x"}, "neither secret_file"),
        ({"policy": "some"}, "policy"), ({"name": "a b"}, "letters"), ({"colour": 1}, "unknown"),
    ],
)  # fmt: skip
def test_mistakes_are_named(change, words):
    with pytest.raises(ConfigError, match="(?i)" + words):
        config({**LINK, **change})


def test_who_listens_needs_no_address():
    config({**LINK, "role": "receive", "address": None})
    config({**LINK, "policy": "latest", "address": None})


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (LINK, "two are called 'vcam'"),
        ({**LINK, "name": "b", "role": "receive", "streams": ["z"]}, "listen on port"),
        ({**LINK, "name": "b", "role": "receive", "port": 9200}, "both make stream vcam1"),
    ],
)
def test_links_that_clash_are_named(second, words):
    with pytest.raises(ConfigError, match=words):
        config(LINK if words.startswith("two") else {**LINK, "role": "receive"}, second)


def test_schema_allows_a_list_of_streams():
    text = json.dumps(schema(StreamlinkConfig))
    assert '"array"' in text


def test_secret(tmp_path):
    path = tmp_path / "secret"
    path.write_text("0123456789abcdef\n")
    path.chmod(0o600)
    assert load_secret(path) == b"0123456789abcdef"
    path.chmod(0o604)
    with pytest.raises(ConfigError, match="open to others"):
        load_secret(path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(ConfigError, match="at least 16"):
        load_secret(path)
    with pytest.raises(ConfigError, match="cannot read"):
        load_secret(tmp_path / "none")
