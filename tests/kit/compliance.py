# SPDX-License-Identifier: BSD-3-Clause
"""The compliance checker over one file, with what it looks up of the file remembered.

    python -m kit.compliance FILE RESULT.json

The checker asks the same questions of all variables for each of them: of a hundred variables that
is ten thousand times, and most of its time. The file does not change meanwhile, so each answer is
worked out once. All its checks run as they are.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable
from typing import Any

from compliance_checker.cf import util
from compliance_checker.runner import CheckSuite, ComplianceChecker

CHECKS = ["cf:1.10", "acdd:1.3"]


def remembering(question: Callable[..., Any]) -> Callable[..., Any]:
    """Return a question about a data set that is answered once for each."""
    answers: dict[tuple[int, tuple[Any, ...]], Any] = {}

    def ask(dataset: Any, *rest: Any) -> Any:
        key = (id(dataset), rest)
        if key not in answers:
            # The data set is kept too: its id is nobody else's.
            answers[key] = (dataset, question(dataset, *rest))
        return copy.copy(answers[key][1])

    return ask


def remember() -> None:
    """Let all modules of the checker ask :func:`remembering` questions."""
    for name, question in inspect.getmembers(util, inspect.isfunction):
        arguments = list(inspect.signature(question).parameters)
        if not name.startswith("get_") or arguments[:1] not in (["nc"], ["ds"]):
            continue
        asked = remembering(question)
        for module in list(sys.modules.values()):
            if getattr(module, "__name__", "").startswith("compliance_checker"):
                if getattr(module, name, None) is question:
                    setattr(module, name, asked)


def main(path: str, result: str) -> None:
    CheckSuite.load_all_available_checkers()
    remember()
    ComplianceChecker.run_checker(
        path, CHECKS, 0, "normal", output_filename=result, output_format="json"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
