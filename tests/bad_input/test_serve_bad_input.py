"""``envfarm serve`` with what it cannot use: one sentence, the right exit code, nothing left running."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from envfarm.cli.main import run
from envfarm.cli.serve import is_loopback


def serve(*arguments: object) -> int:
    return run(["serve", *map(str, arguments)])


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    return err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "farm.example", ""])
def test_other_machines_are_let_in_only_on_purpose(host: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert serve("--host", host, "--home", tmp_path / "home") == 2
    assert "--allow-remote" in sentence(capsys)
    assert not (tmp_path / "home").exists(), "nothing was touched"


@pytest.mark.parametrize(
    ("host", "answer"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("10.0.0.1", False),
     ("localhost.example", False)],
)  # fmt: skip
def test_what_counts_as_this_machine(host: str, answer: bool):
    assert is_loopback(host) is answer


def test_a_taken_port(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve("--port", port, "--home", tmp_path) == 1
    said = sentence(capsys)
    assert f"127.0.0.1:{port}" in said and "in use" in said and "--port" in said
    assert list(tmp_path.iterdir()) == []


def test_an_address_of_another_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert serve("--host", "192.0.2.7", "--allow-remote", "--home", tmp_path) == 1
    assert "192.0.2.7" in sentence(capsys)


def test_a_name_that_does_not_resolve(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert serve("--host", "farm.invalid", "--allow-remote", "--home", tmp_path) == 1
    assert "farm.invalid" in sentence(capsys)


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_port_that_is_none(port: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert serve("--port", port, "--home", tmp_path) == 2
    assert "--port" in capsys.readouterr().err


def test_a_home_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").write_text("")
    assert serve("--port", 0, "--home", tmp_path / "file" / "home") != 0
    assert "home" in sentence(capsys)


def test_a_database_of_somebody_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with sqlite3.connect(tmp_path / "envfarm.db") as other:
        other.execute("CREATE TABLE cats (name TEXT)")
    other.close()
    assert serve("--port", 0, "--home", tmp_path) == 1
    assert "not envfarm's" in sentence(capsys)


def test_an_unknown_key_in_the_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "farm.toml").write_text("portt = 1\n")
    assert serve("--config", tmp_path / "farm.toml", "--home", tmp_path) == 2
    assert "portt" in sentence(capsys)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(number: signal.Signals, tmp_path: Path):
    command = [sys.executable, "-m", "envfarm.cli.main", "serve", "--port", "0", "--home", str(tmp_path)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        assert server.stderr is not None
        first = server.stderr.readline()
        address = first.split(" at ")[1].split(" ")[0]
        assert wait_for(address + "healthz") == 200
        server.send_signal(number)
        assert server.wait(15) == 0
        assert server.stderr.read() == "", "no traceback, no remark about a run"
    finally:
        server.kill()
        server.wait()
        server.stderr and server.stderr.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address, timeout=2)


def wait_for(address: str, seconds: float = 30) -> int:
    """The status of the first answer."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(address, timeout=2) as answer:
                return answer.status
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
