"""The text of a synth task: what somebody would report who saw one test fail."""

from __future__ import annotations

import random
import re

from envfarm.core.source import IssueKind
from envfarm.core.task import Statement

from .choose import Proposal

_LINES, _CHARACTERS = 8, 600
_EXCEPTION = re.compile(r"^(?:\w+\.)*([A-Z]\w*)(?::|$)", re.MULTILINE)
_VERDICTS = frozenset({"AssertionError", "Failed"})
"""What a test raises to say that a value is wrong."""
_OBJECT = re.compile(r" at 0x[0-9a-fA-F]+")
_NO_RAISE = re.compile(r"DID NOT (?:RAISE|WARN)|not raised|not triggered")

_OPENINGS = {
    "value": (
        "`{function}` gives a wrong result",
        "Wrong result from `{function}`",
        "`{function}` does not behave as documented",
    ),
    "raises": (
        "`{function}` fails with `{exception}`",
        "Unexpected `{exception}` around `{function}`",
        "`{exception}` where `{function}` used to work",
    ),
    "silent": (
        "`{function}` accepts what it should refuse",
        "Missing error from `{function}`",
    ),
}
_SHOWN = (
    "This test shows it:",
    "It can be seen with this test of the suite:",
    "To reproduce, run this test:",
)
_CLOSINGS = (
    "Other tests of the same behaviour fail for the same reason. Everything else should stay as it is.",
    "The cause lies in the library, not in the test, and shows in more places than this one. Please repair it there.",
    "Expected: the behaviour that the test describes, in this and in related cases, with nothing else changed.",
)


def write_statement(proposal: Proposal, shown_test: str, message: str, *, in_tree: bool, seed: int) -> Statement:
    """Report one failing test and the function it concerns.

    Names neither operator nor line, and quotes neither side of the edited line. ``in_tree`` says whether the shown
    test can be run by the reader. The wording varies with ``seed``.
    """
    rng = random.Random(seed)
    quoted = clean_message(message, proposal)
    exception = _EXCEPTION.match(quoted)
    kind = "value"
    if _NO_RAISE.search(quoted):
        kind = "silent"
    elif exception and exception[1] not in _VERDICTS:
        kind = "raises"
    names = {"function": proposal.edit.function, "exception": exception[1] if exception else ""}
    parts = [
        rng.choice(_OPENINGS[kind]).format(**names),
        f"Something is wrong in or around `{proposal.edit.function}` (`{proposal.path}`).",
        f"{rng.choice(_SHOWN)} `{shown_test}`" if in_tree else f"A test outside this tree, `{shown_test}`, fails.",
    ]
    if quoted:
        parts.append(f"It ends with\n\n```\n{quoted}\n```")
    parts.append(rng.choice(_CLOSINGS))
    return Statement(text="\n\n".join(parts) + "\n", source=IssueKind.none, shown_tests=(shown_test,))


def clean_message(message: str, proposal: Proposal) -> str:
    """The first lines of a failure, without addresses and without the code of the edited line."""
    secret = [line.strip() for line in (proposal.edit.line_before, proposal.edit.line_after)]
    kept = [
        _OBJECT.sub("", line.rstrip())
        for line in message.strip().splitlines()
        if not any(line_of_code in line for line_of_code in secret) and not _names_place(line, proposal.path)
    ]
    text = "\n".join(kept[:_LINES]).strip().replace("```", "'''")
    return text if len(text) <= _CHARACTERS else text[:_CHARACTERS].rstrip() + " ..."


def _names_place(line: str, path: str) -> bool:
    """Whether a line of a traceback says where in the mutated file it is."""
    name = re.escape(path.rsplit("/", 1)[-1])
    return bool(re.search(rf"{name}(:\d+|\", line \d+)", line))
