# SPDX-License-Identifier: BSD-3-Clause
"""Arithmetic in data files, such as ``0.60*tFWC_point[w]``: parsed, never run as code.

Numbers, names, ``table[key]``, ``+ - * / // %``, comparisons, ``and or not``, ``a if b else c``
and the functions abs, int, max, min, round. Nothing else.
"""

from __future__ import annotations

import ast
import difflib
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from nightjar.errors import ConfigError

_LONGEST = 300
_BINARY: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
_UNARY: dict[type[ast.AST], Callable[[Any], Any]] = {
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs, "int": int, "max": max, "min": min, "round": round,
}  # fmt: skip
_FIELD = re.compile(r"\{([A-Za-z_]\w*)(:[^{}]{0,20})?\}")

Names = Mapping[str, Any]


def evaluate(text: str, names: Names, where: str) -> Any:
    """Return the value of an expression.

    Parameters
    ----------
    names
        Numbers, texts and tables by name.
    where
        Place of the expression, for the message: file and key path.

    Raises
    ------
    ConfigError
        It is not such an expression, a name or a key of a table is not known, or it divides by 0.
    """
    if len(text) > _LONGEST:
        raise ConfigError(f"{where}: an expression of over {_LONGEST} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: {text!r}: not an expression") from error
    try:
        return _value(tree.body, names)
    except ConfigError as error:
        raise ConfigError(f"{where}: {text!r}: {error.message}") from None
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {text!r}: {error}") from error


def _value(node: ast.expr, names: Names) -> Any:
    match node:
        case ast.Constant(value=int() | float() | str() as value):
            return value
        case ast.Name(id=name):
            return _named(name, names)
        case ast.UnaryOp(op=kind, operand=inner):
            return _unary(kind)(_value(inner, names))
        case ast.BinOp(left=left, op=kind, right=right):
            return _arithmetic(kind, _value(left, names), _value(right, names))
        case ast.Compare(left=left, ops=[kind], comparators=[right]) if type(kind) in _BINARY:
            return _BINARY[type(kind)](_value(left, names), _value(right, names))
        case ast.BoolOp(op=kind, values=parts):
            every = all if isinstance(kind, ast.And) else any
            return every(_value(part, names) for part in parts)
        case ast.IfExp(test=test, body=body, orelse=other):
            return _value(body if _value(test, names) else other, names)
        case ast.Subscript(value=ast.Name(id=name), slice=inner):
            return _entry(name, _named(name, names), _value(inner, names))
        case ast.Call(func=ast.Name(id=name), args=inputs, keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*(_value(part, names) for part in inputs))
        case _:
            raise ConfigError(f"{ast.unparse(node)!r} is not allowed in an expression")


def _unary(kind: ast.unaryop) -> Callable[[Any], Any]:
    function = _UNARY.get(type(kind))
    if function is None:
        raise ConfigError(f"{type(kind).__name__} is not allowed in an expression")
    return function


def _arithmetic(kind: ast.operator, left: Any, right: Any) -> Any:
    function = _BINARY.get(type(kind))
    if function is None or isinstance(left, str) or isinstance(right, str):
        raise ConfigError(f"{type(kind).__name__} is not allowed in an expression")
    return function(left, right)


def _named(name: str, names: Names) -> Any:
    try:
        return names[name]
    except KeyError:
        near = difflib.get_close_matches(name, list(names), 1)
        hint = f"did you mean {near[0]}?" if near else f"known are: {', '.join(sorted(names))}"
        raise ConfigError(f"unknown name {name!r}; {hint}") from None


def _entry(name: str, table: Any, key: Any) -> Any:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{name} is not a table")
    if key not in table:
        raise ConfigError(f"{name} has no {key!r}; it has {', '.join(map(str, table))}")
    return table[key]


def fill(text: str, names: Names, where: str) -> str:
    """Return a text with its ``{name}`` and ``{name:format}`` filled in.

    Raises
    ------
    ConfigError
        A name is not known or its format does not fit.
    """

    def replace(match: re.Match[str]) -> str:
        try:
            return format(_named(match[1], names), (match[2] or ":")[1:])
        except ConfigError as error:
            raise ConfigError(f"{where}: {text!r}: {error.message}") from None
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{where}: {text!r}: {error}") from error

    return _FIELD.sub(replace, text)
