# SPDX-License-Identifier: BSD-3-Clause
"""What a person gives to ``cam ID configure``: a JSON file or ``KEY=VALUE`` words."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nightjar.api import camera, fast_camera
from nightjar.api.commands import Parameter
from nightjar.config.paths import read_json
from nightjar.errors import InvalidArgument

_SWITCH = {"enable": True, "disable": False, "true": True, "false": False, "on": True, "off": False}


def parameter_of(key: str, *, fast: bool = False) -> Parameter:
    """Return the parameter of the command table for a key of ``configure``, named as the key.

    `fast` asks for the table of a fast camera.

    Raises
    ------
    InvalidArgument
        No such key; the message lists those that are.
    """
    keys = fast_camera.CONFIGURE_KEYS if fast else camera.CONFIGURE_KEYS
    if key not in keys:
        raise InvalidArgument(f"unknown setting {key!r}; known: {', '.join(keys)}")
    command, name = keys[key]
    commands = fast_camera.COMMANDS if fast else camera.COMMANDS
    table = next(each for each in commands if each.name == command)
    parameter = next(each for each in table.parameters if each.name == name)
    return replace(parameter, name=key)


def read_settings(words: Sequence[str], *, fast: bool = False) -> dict[str, Any]:
    """Return the settings of a command line, each of the right type.

    Raises
    ------
    InvalidArgument
        Not ``KEY=VALUE``, an unknown or repeated key, or a value of the wrong type.
    Refused
        A value out of range.
    ConfigError
        The file cannot be read or is no JSON object.
    """
    if len(words) == 1 and "=" not in words[0]:
        return {
            key: parameter_of(key, fast=fast).check(value)
            for key, value in _read(words[0]).items()
        }
    settings: dict[str, Any] = {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign:
            raise InvalidArgument(f"{word!r} is not KEY=VALUE")
        if key in settings:
            raise InvalidArgument(f"{key} is given twice")
        settings[key] = value_of(key, text, fast=fast)
    return settings


def _read(name: str) -> dict[str, Any]:
    if name != "-":
        return read_json(Path(name))
    try:
        value = json.load(sys.stdin)
    except ValueError as error:
        raise InvalidArgument(f"standard input is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidArgument("standard input is not a JSON object")
    return value


def value_of(key: str, text: str, *, fast: bool = False) -> Any:
    """Return the value of ``KEY=TEXT``, checked against the command table.

    Raises
    ------
    InvalidArgument, Refused
        The wrong type, or out of range.
    """
    parameter = parameter_of(key, fast=fast)
    if text == "default" or (key == "temperature" and text == "warm"):
        if not parameter.is_nullable:
            raise InvalidArgument(f"{key} has no value default: leave it out")
        return None
    value: Any = text
    if parameter.kind == "bool":
        value = _SWITCH.get(text.lower(), text)
    elif parameter.kind == "ints":
        value = [_convert(int, part) for part in text.replace(",", " ").split()]
    elif parameter.kind == "int":
        value = _convert(int, text)
    elif parameter.kind == "float":
        value = _convert(float, text)
    return parameter.check(value)


def _convert(kind: type[int] | type[float], text: str) -> int | float | str:
    try:
        return kind(text)
    except ValueError:
        return text  # refused by the check, with the text in the message
