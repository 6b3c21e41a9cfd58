# SPDX-License-Identifier: BSD-3-Clause
"""Strict configuration models: an unknown key, a wrong type or a value out of range is refused."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any, TypeVar, Union, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from nightjar.config.paths import read_json
from nightjar.errors import ConfigError


class StrictModel(BaseModel):
    """The base of every configuration model."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True)


class DaemonConfig(StrictModel):
    """What every daemon's configuration has."""

    daemon: str = Field(
        description="Run the server as this daemon: a name in the registry, which gives its "
        "machine and port."
    )
    log_name: str = Field(
        min_length=1, max_length=80,
        description="The name to use when writing messages to the observatory log.",
    )  # fmt: skip
    control_machines: tuple[str, ...] = Field(
        strict=False,
        description="Machine names (of the registry) that may control, rather than just query.",
    )
    query_machines: tuple[str, ...] | None = Field(
        None, strict=False,
        description="Machine names that may read status; all of the registry if not given.",
    )  # fmt: skip
    metrics_port: int | None = Field(
        None, ge=1, le=65535,
        description="TCP port on which Prometheus metrics are served; none if not given.",
    )  # fmt: skip


Model = TypeVar("Model", bound=BaseModel)


def _key_path(location: tuple[int | str, ...], value: Any) -> str:
    """Return the path of a key as it stands in the file: pydantic adds the tags of unions to it."""
    parts: list[str] = []
    node = value
    for index, part in enumerate(location):
        is_last = index == len(location) - 1
        if isinstance(node, dict) and part not in node and not is_last:
            continue  # the tag of a union, not a key
        parts.append(str(part))
        if isinstance(node, dict):
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
    return ".".join(parts)


def _allowed(error: dict[str, Any], model: type[BaseModel]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        inner = _model_at(model, error["loc"][:-1])
        known = sorted(inner.model_fields) if inner else []
        near = difflib.get_close_matches(str(error["loc"][-1]), known, 1)
        return (
            "unknown key"
            + (f"; known are: {', '.join(known)}" if known else "")
            + (f"; did you mean {near[0]}?" if near else "")
        )
    if kind == "missing":
        return "is missing"
    if kind == "union_tag_invalid":
        key = str(context["discriminator"]).strip("'")
        return f"{key} must be one of {context['expected_tags']}"
    if kind == "union_tag_not_found":
        return f"must have the key {context['discriminator']}"
    text = str(error["msg"])
    if kind == "value_error":
        return text.removeprefix("Value error, ")
    # pydantic's own words: "Input should be ...", "String should have ...", "List should have ..."
    text = re.sub(r"^\w+ should ", "must ", text)
    if not text.startswith("must "):
        text = f"must be {text}"
    if "expected" in context and "expected" not in text and str(context["expected"]) not in text:
        text += f" ({context['expected']})"
    return text


def _model_at(model: type[BaseModel], keys: tuple[Any, ...]) -> type[BaseModel] | None:
    """Return the model of a nested object; None where several may be meant."""
    for key in keys:
        if key not in model.model_fields:
            continue  # an index of a list, a key of a table
        inner = _models_in(model.model_fields[key].annotation)
        if len(inner) != 1:
            return None
        model = inner.pop()
    return model


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {model for part in get_args(annotation) for model in _models_in(part)}


def _explain(error: dict[str, Any], model: type[BaseModel], whole: Any) -> str:
    key = _key_path(error["loc"], whole) or "(whole file)"
    if error["type"] in ("extra_forbidden", "missing"):
        return f"{key}: {_allowed(error, model)}"
    value = json.dumps(error.get("input"), default=str)
    if len(value) > 60:
        value = value[:57] + "..."
    if error["loc"] == ():
        return f"{_allowed(error, model)}"
    return f"{key}: {value}: {_allowed(error, model)}"


def parse(value: dict[str, Any], model: type[Model], source: str) -> Model:
    """Return the model of a configuration object.

    Raises
    ------
    ConfigError
        One line per fault: source, key path, the value, what is allowed.
    """
    try:
        return model.model_validate_json(json.dumps(value))
    except ValidationError as error:
        lines = [
            f"{source}: {_explain(dict(fault), model, value)}"
            for fault in error.errors(include_url=False)
        ]
        raise ConfigError("\n".join(lines), path=source, faults=len(lines)) from None


def load(path: Path, model: type[Model]) -> Model:
    """Read and check a configuration file."""
    return parse(read_json(path), model, str(path))


def schema(*models: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of a configuration model, for editors and the reference docs.

    Of several models: of a file that is for any of them.
    """
    if len(models) == 1:
        return models[0].model_json_schema()
    kinds: Any = Union[models]  # noqa: UP007 - the models are known here only
    described: dict[str, Any] = TypeAdapter(kinds).json_schema()
    return described
