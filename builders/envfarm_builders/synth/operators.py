"""The mutation operators: what each may do to a node.

Every operator is closed under inversion: whatever it makes out of a function, one of the operators' edits of the
mutated function makes the original again. So the answer to a task is always on the page, and a random valid edit is
an honest baseline. Every edit stays on one line.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum

from . import expressions, flow
from .replacement import Replacement
from .unit import Unit


class Operator(StrEnum):
    """Kinds of planted bugs."""

    comparison = "comparison"
    integer = "integer"
    boolean = "boolean"
    arithmetic = "arithmetic"
    negation = "negation"
    default = "default"
    branch = "branch"
    return_ = "return"


OPERATORS: Mapping[Operator, Callable[[Unit, ast.AST], Iterator[Replacement]]] = {
    Operator.comparison: expressions.comparison,
    Operator.integer: expressions.integer,
    Operator.boolean: expressions.boolean,
    Operator.arithmetic: expressions.arithmetic,
    Operator.negation: flow.negation,
    Operator.default: flow.default,
    Operator.branch: flow.branch,
    Operator.return_: flow.returned,
}
