"""The three tools of the minimal harness: ``bash``, ``str_replace``, ``finish`` (the set MiMo was trained with)."""

from __future__ import annotations

import posixpath
from typing import Any

from envfarm.core.archive import File, pack, unpack
from envfarm.core.box import ExecRequest
from envfarm.core.environment import WORKDIR
from envfarm.core.errors import EnvfarmError, SandboxError
from envfarm.core.ports import Sandbox
from envfarm.core.rollout import ToolCall

ENDED = "the command was ended after"
"""How an answer says that a command met its limit of time."""

SCHEMAS: tuple[dict[str, Any], ...] = (
    {
        "name": "bash",
        "description": "Run a command with bash in the repository. Its output and exit code come back.",
        "parameters": {
            "type": "object",
            "properties": {"command": {"type": "string"}},
            "required": ["command"],
            "additionalProperties": False,
        },
    },
    {
        "name": "str_replace",
        "description": "Replace text in a file. The old text must occur exactly once.",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string"}, "old": {"type": "string"}, "new": {"type": "string"}},
            "required": ["path", "old", "new"],
            "additionalProperties": False,
        },
    },
    {
        "name": "finish",
        "description": "Hand in the repository as it is now.",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    },
)


class BadCall(Exception):
    """The policy called a tool that does not exist, or with arguments it does not take. Told to it as an observation:
    it is the policy's own doing and never masked."""


def check(call: ToolCall) -> None:
    """Raise :class:`BadCall` unless the call fits its schema (names, presence and string types)."""
    schema = next((s["parameters"] for s in SCHEMAS if s["name"] == call.name), None)
    if schema is None:
        raise BadCall(f"There is no tool '{call.name}'. Tools: {', '.join(s['name'] for s in SCHEMAS)}.")
    known = set(schema["properties"])
    if unknown := sorted(set(call.arguments) - known):
        raise BadCall(f"{call.name} does not take {', '.join(unknown)}.")
    if missing := [name for name in schema.get("required", ()) if name not in call.arguments]:
        raise BadCall(f"{call.name} needs {', '.join(missing)}.")
    if wrong := sorted(name for name, value in call.arguments.items() if not isinstance(value, str)):
        raise BadCall(f"{call.name}: {', '.join(wrong)} must be text.")


async def run_tool(call: ToolCall, sandbox: Sandbox, *, timeout_sec: float, output_chars: int) -> str:
    """Carry out ``bash`` or ``str_replace`` and return the observation. Raises :class:`BadCall`, ``SandboxError``."""
    check(call)
    if call.name == "bash":
        return await _bash(call.arguments["command"], sandbox, timeout_sec, output_chars)
    return await _str_replace(call.arguments, sandbox)


async def _bash(command: str, sandbox: Sandbox, timeout_sec: float, output_chars: int) -> str:
    request = ExecRequest(
        argv=("/bin/bash", "-c", command + "\n"),
        timeout_sec=timeout_sec,
        output_limit_bytes=4 * output_chars,
    )
    result = await sandbox.exec(request)
    output = (result.stdout + result.stderr).decode("utf-8", "replace")
    if len(output) > output_chars:
        half = output_chars // 2
        output = f"{output[:half]}\n... {len(output) - 2 * half} characters left out ...\n{output[-half:]}"
    if result.timed_out:
        return f"{output}\n[{ENDED} {timeout_sec:.0f} s]"
    status = f"exit code {result.exit_code}" if result.signal is None else f"ended by signal {result.signal}"
    return f"{output}\n[{status}]"


async def _str_replace(arguments: dict[str, str], sandbox: Sandbox) -> str:
    path = posixpath.normpath(posixpath.join(WORKDIR, arguments["path"]))
    if not path.startswith(WORKDIR + "/"):
        raise BadCall(f"{arguments['path']} is outside the repository.")
    stat = await sandbox.stat(path)
    if stat is None or stat.kind != "file":
        raise BadCall(f"{arguments['path']} is not a file.")
    folder, name = posixpath.split(path)
    try:
        file = _only_file(unpack(await sandbox.get(path)))
    except SandboxError:
        raise
    except EnvfarmError as error:  # the boundary to what the policy did to its own tree
        raise BadCall(f"{arguments['path']} cannot be read: {error.message}") from error
    old, new = arguments["old"].encode(), arguments["new"].encode()
    count = file.data.count(old) if old else 0
    if count != 1:
        raise BadCall(f"The old text occurs {count} times in {arguments['path']}, not once.")
    await sandbox.put(folder, pack({name: File(file.data.replace(old, new), file.mode)}))
    return f"{arguments['path']} was changed."


def _only_file(files: dict[str, File]) -> File:
    (file,) = files.values()
    return file
