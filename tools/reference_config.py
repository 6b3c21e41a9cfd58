# SPDX-License-Identifier: BSD-3-Clause
"""Reference pages of the daemons' configuration, from their pydantic models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from reference_markdown import TITLES, anchor, code, table

from nightjar.config.load import DaemonConfig
from nightjard.site.configured import models_of, spec_of

KINDS = {
    "string": "text", "integer": "whole number", "number": "number", "boolean": "true or false",
}  # fmt: skip
LIMITS = (
    ("minimum", "from {}"), ("exclusiveMinimum", "above {}"),
    ("maximum", "to {}"), ("exclusiveMaximum", "below {}"),
    ("maxLength", "at most {} characters long"),
    ("minItems", "at least {} of them"), ("maxItems", "at most {} of them"),
    ("minProperties", "at least {} of them"), ("pattern", "like `{}`"),
)  # fmt: skip


def title_of(model: type[BaseModel]) -> str:
    """Return the heading of a nested model."""
    name = model.model_fields.get("name")
    if name is not None and get_origin(name.annotation) is Literal:
        kind = "source" if "camd.fast" in model.__module__ else "driver"
        return f'{kind} "{get_args(name.annotation)[0]}"'
    words = re.findall("[A-Z][a-z]*", model.__name__)
    return " ".join(words).lower()


def type_text(schema: dict[str, Any], titles: dict[str, str]) -> str:
    """Return what a value must be, in words."""
    if "$ref" in schema:
        title = titles[schema["$ref"].rsplit("/", 1)[-1]]
        return f"[{title}](#{anchor(title)})"
    if schema.get("title") in titles:
        return f"[{titles[schema['title']]}](#{anchor(titles[schema['title']])})"
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return " or ".join(type_text(option, titles) for option in options)
    if "const" in schema:
        return code(json.dumps(schema["const"]))
    if "enum" in schema:
        return "one of " + ", ".join(code(json.dumps(value)) for value in schema["enum"])
    kind = schema.get("type")
    if isinstance(kind, list):
        return " or ".join(type_text(schema | {"type": one}, titles) for one in kind)
    if kind == "null":
        return "`null`"
    if kind == "array":
        parts = schema.get("prefixItems")
        if parts and any(part != parts[0] for part in parts):
            return f"[{', '.join(type_text(part, titles) for part in parts)}]"
        if parts:
            return f"list of {len(parts)} {type_text(parts[0], titles)}s"
        items = type_text(schema.get("items", {}), titles)
        least, most = schema.get("minItems"), schema.get("maxItems")
        count = f"{least} " if least is not None and least == most else ""
        plural = "s" if items in KINDS.values() else ""
        return f"list of {count}{items}{plural}"
    if kind == "object":
        patterned = list(schema.get("patternProperties", {}).values())
        values = patterned[0] if patterned else schema.get("additionalProperties")
        if not isinstance(values, dict):
            return "object"
        return f"object: name to {type_text(values, titles)}"
    if schema.get("format") == "path":
        return "path"
    return KINDS.get(str(kind), "any value")


def limits_text(schema: dict[str, Any]) -> str:
    """Return the limits of a value; of each item where the items have them."""
    ends = [text.format(shown(schema[key])) for key, text in LIMITS[:4] if key in schema]
    parts = [" ".join(ends)] if ends else []
    parts += [text.format(shown(schema[key])) for key, text in LIMITS[4:] if key in schema]
    if schema.get("minItems") is not None and schema.get("minItems") == schema.get("maxItems"):
        parts = [part for part in parts if not part.endswith("of them")]
    if schema.get("minLength"):
        parts.append("not empty")
    parts += [limits_text(option) for option in schema.get("anyOf", ())]
    for key in ("items", "additionalProperties"):
        inner = schema.get(key)
        if isinstance(inner, dict) and (text := limits_text(inner)):
            parts.append(f"each {text}")
    return ", ".join(dict.fromkeys(part for part in parts if part))


def shown(value: Any) -> str:
    """Return a limit without a needless decimal."""
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)


def default_text(model: type[BaseModel], name: str) -> str:
    """Return the default of a key."""
    field = model.model_fields[name]
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        kind = getattr(value, "name", None)
        return code(json.dumps({"name": kind})) if kind else "its defaults"
    return code(json.dumps(value, default=str))


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Return the models that a type mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        if not isinstance(part, str):
            yield from models_in(part)


def nested_models(model: type[BaseModel]) -> list[type[BaseModel]]:
    """Return the models of nested objects, in the order in which keys mention them."""
    found: list[type[BaseModel]] = []
    waiting = [model]
    while waiting:
        for field in waiting.pop(0).model_fields.values():
            for inner in models_in(field.annotation):
                if inner not in found:
                    found.append(inner)
                    waiting.append(inner)
    return found


def keys_table(model: type[BaseModel], names: Iterable[str], titles: dict[str, str]) -> list[str]:
    """Return the table of some keys of a model."""
    properties = model.model_json_schema()["properties"]
    rows = []
    for name in names:
        schema = properties[name]
        limits = limits_text(schema)
        kind = type_text(schema, titles) + (f", {limits}" if limits else "")
        meaning = schema.get("description") or "Chooses this driver."
        rows.append((code(name), kind, default_text(model, name), meaning))
    return table(("key", "value", "default", "meaning"), rows)


def other_kinds(program: str, mode: str) -> list[str]:
    """Return where the other kinds of a program's configuration are described."""
    links = [
        f'`"mode": "{name}"` [other keys](configuration-{program}-{name}.md)'
        for name in spec_of(program).variants if name != mode
    ]  # fmt: skip
    if mode:
        links.append(f'without it, or with another, [other keys](configuration-{program}.md)')
        return [f'These are the keys of a file with `"mode": "{mode}"`; {", ".join(links)}.', ""]
    return [f"A file with {', '.join(links)}.", ""] if links else []


def configuration_page(program: str, mode: str = "") -> list[str]:
    """Return the page of a daemon's configuration; of another kind of it by `mode`."""
    spec = spec_of(program)
    model = spec.variants[mode].config_model if mode else spec.config_model
    nested = nested_models(model)
    titles = {one.__name__: title_of(one) for one in nested}
    common = [name for name in model.model_fields if name in DaemonConfig.model_fields]
    own = [name for name in model.model_fields if name not in DaemonConfig.model_fields]
    kind = f" with mode {mode}" if mode else ""
    lines = [
        f"# Configuration of {program}{kind}", "",
        f"The {TITLES[program]}, `{program} NAME`, reads `NAME.json` from the folder that "
        f"`{program.upper()}_CONFIG_ROOT` names, else from `/etc/{program}`. The file is one JSON "
        "object without comments. An unknown key, a wrong type or a value outside the limits is "
        "refused with the file, the key, the value and what is allowed; `nightjar check-config` "
        f"tells that without starting anything. For an editor: `nightjar schema {program}`.", "",
        *other_kinds(program, mode),
        "How to: [configure](../how-to/configure.md). Limits include the values given, except "
        "after *above* and *below*.", "",
        "## Keys that every daemon has", "", *keys_table(model, common, titles),
        f"## Keys of {program}", "", *keys_table(model, own, titles),
    ]  # fmt: skip
    return lines + nested_tables(nested, titles)


def nested_tables(nested: Iterable[type[BaseModel]], titles: dict[str, str]) -> list[str]:
    """Return the sections of nested objects."""
    lines: list[str] = []
    for one in nested:
        summary = (one.__doc__ or "").strip().splitlines()[0]
        lines += [f"## {titles[one.__name__]}", "", summary, ""]
        lines += keys_table(one, one.model_fields, titles)
    return lines


def campaign_page() -> list[str]:
    """Return the page of the campaign file of ``calib run``."""
    (model,) = models_of("calib")
    nested = nested_models(model)
    titles = {one.__name__: title_of(one) for one in nested}
    return [
        "# The campaign file of calib", "",
        "One JSON object without comments; `calib init` makes one, `calib run` reads it. An "
        "unknown key, a wrong type or a value outside the limits is refused with the file, the "
        "key, the value and what is allowed; `calib run FILE -R SESSION --dry-run` tells that "
        "without doing anything. For an editor: `nightjar schema calib`.", "",
        "How to: [check and analyse](../how-to/calibration-run.md). Limits include the values "
        "given, except after *above* and *below*.", "",
        "## Keys", "", *keys_table(model, model.model_fields, titles),
        *nested_tables(nested, titles),
    ]  # fmt: skip
