"""What the SWE-bench 5 harness runs in a task's image."""

from __future__ import annotations

import shlex

from envfarm.core.base import digest_bytes, short
from envfarm.core.environment import ENV_DIR, TestCommand
from envfarm.core.task import Task

WORKDIR = "/testbed"
"""Where the harness expects the tree and applies a model's patch."""


PARSER = "parse_log_pytest_v2"
"""Of the harness's parsers of pytest logs the one that keeps blanks in ids."""


def as_parsed(test: str) -> str:
    """A test id as the parser reads it from the log: runs of blanks become one."""
    return " ".join(test.split())


def image_name(instance_id: str, namespace: str) -> str:
    """The harness's own rule: lower case, and ``_1776_`` for the ``__`` that an image name may not hold."""
    return f"{namespace}/sweb.eval.x86_64.{instance_id}:latest".lower().replace("__", "_1776_")


def eval_script(
    task: Task, test_patch: str, command: TestCommand, *, workdir: str = WORKDIR, python: str = f"{ENV_DIR}/bin/python"
) -> str:
    """Undo what a model did to the test files, apply the hidden tests, run the files that decide.

    The harness reads what stands between the two markers (the trace of a no-op, hence ``set -x``) and itself records
    the status of the command before the second: so nothing may come between that and the test run.
    """
    env = "".join(f"{name}={shlex.quote(value)} " for name, value in sorted(command.env.items()))
    words = [python, "-m", command.runner, "-rA", *command.args, *_files(task)]
    lines = ["#!/bin/bash", "set -uxo pipefail", f"cd {shlex.quote(workdir)}"]
    for file in sorted({*task.test_files, *task.removed_tests}):
        quoted = shlex.quote(file)
        lines.append(f"git checkout -q HEAD -- {quoted} || rm -f -- {quoted}")
    if test_patch:
        end = _delimiter(test_patch)
        body = test_patch if test_patch.endswith("\n") else test_patch + "\n"
        lines += [f"git apply --whitespace=nowarn - <<'{end}'", body + end]
    lines += [": '>>>>> Start Test Output'", env + shlex.join(words), ": '>>>>> End Test Output'"]
    return "\n".join(lines) + "\n"


def _files(task: Task) -> list[str]:
    """Files with a deciding test: those the fix touches, and those of every listed test id."""
    listed = (test.partition("::")[0] for test in (*task.fail_to_pass, *task.pass_to_pass) if "::" in test)
    return sorted({*task.test_files, *listed} - set(task.removed_tests))


def _delimiter(text: str) -> str:
    """A here-document's end that the text does not hold as a line."""
    end = "EOF_" + short(digest_bytes(text.encode("utf-8", "surrogatepass")))
    while end in text:
        end += "_"
    return end
