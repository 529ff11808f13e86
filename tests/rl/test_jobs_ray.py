"""The same trainer with a Ray actor that rolls out, and as a job of a real head with token authentication."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .jobs import MARK, Home, processes, wait_for

pytest.importorskip("ray")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listened at a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def test_an_actor_that_is_killed_is_replaced_and_the_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """And what is learned is what one process learns."""
    home, plain = Home(tmp_path / "a", steps=40), Home(tmp_path / "b", steps=40)
    assert plain.train("run", plain.config).returncode == 0
    with home.started("run", home.config, "--actors") as child:
        assert child.stderr is not None
        said: list[str] = []
        for line in child.stderr:
            said.append(line)
            actor = re.match(r"The rollout actor is process (\d+)\.", line)
            if actor and len(said) == 1:
                first = int(actor[1])
                wait_for(home.committed, "a checkpoint")
                os.kill(first, signal.SIGKILL)
        child.wait(timeout=120)
    assert child.returncode == 0, "".join(said)
    told = home.status()
    assert re.search(rf"The rollout actor's process {first} died\. Going on from step-\d+\.", "".join(said))
    assert told["state"] == "finished"
    assert re.fullmatch(rf"The rollout actor's process {first} died\. Resumed from step-\d+\.", told["status"]["note"])
    assert home.steps() == plain.steps()
    wait_for(lambda: not home.processes(), "the end of what Ray started", 30)


def test_a_head_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    home = Home(tmp_path, steps=2, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    address = f"http://127.0.0.1:{free_ports(1)[0]}"
    sent = home.train("submit", home.config, "--on", "ray", "--address", address)
    assert sent.returncode == 1
    assert sent.stderr == f"error: The Ray head at {address} cannot be reached. Is it running, and is the port right?\n"
    assert sent.stdout == ""
    assert home.train("ls", "--json").stdout.strip() == "[]", "what could not be sent is no run"


class Head:
    """A Ray head of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.port, self.jobs, *others = free_ports(8)
        names = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port",
                 "metrics-export-port", "node-manager-port", "object-manager-port")  # fmt: skip
        self.temporary = Path("/tmp") / f"ray{secrets.token_hex(3)}"  # sockets below it: their paths must be short
        token = folder / "token"
        token.write_text(secrets.token_hex(32), "utf-8")
        self.variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        patience = {"RAY_agent_register_timeout_ms": "120000"}  # of the node for its agents, on a busy machine
        self.mark = f"head of {folder}"
        self.environ = os.environ | self.variables | patience | {MARK: self.mark}
        ray = str(Path(sys.executable).with_name("ray"))
        self._command = [
            ray, "start", "--head", "--block", f"--port={self.port}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.jobs}", "--node-ip-address=127.0.0.1", "--num-cpus=2",
            "--object-store-memory=200000000", "--disable-usage-stats", f"--temp-dir={self.temporary}",
            *(f"--{name}={port}" for name, port in zip(names, others, strict=True)),
        ]  # fmt: skip

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.jobs}"

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            env=self.environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(self._answers, "the head's start")

    def end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(60)
        finally:
            for pid in processes(self.mark):
                with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(self.temporary, ignore_errors=True)

    def _answers(self) -> bool:
        assert self._process.poll() is None, "the head ended"
        try:
            socket.create_connection(("127.0.0.1", self.jobs), 1).close()
        except OSError:
            return False
        return True


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    made = Head(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.end()


def actors(head: Head) -> list[str]:
    """Classes of living actors, as the head tells."""
    code = (
        "import json; from ray.util.state import list_actors; "
        f"print(json.dumps([a.class_name for a in list_actors({head.address!r}) if a.state != 'DEAD']))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=head.environ, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def of_the_run(head: Head) -> list[str]:
    """Processes of the head that work on the run."""
    return [line for line in processes(head.mark).values() if "RolloutProcess" in line or "train work" in line]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_jobs_of_a_real_head(tmp_path: Path, head: Head) -> None:
    home = Home(tmp_path, steps=100_000, **head.variables)
    sent = home.train("submit", home.config, "--on", "ray", "--address", head.address, "--json")
    assert sent.returncode == 0, sent.stderr
    wait_for(lambda: len(home.committed()) >= 2, "the second checkpoint", 600)
    assert home.status()["state"] == "running"
    assert any("RolloutProcess" in each for each in actors(head))
    token = Path(head.variables["RAY_AUTH_TOKEN_PATH"]).read_text("utf-8")
    lines = processes(head.mark).values()
    assert len(of_the_run(head)) >= 2, "the job and its actor"
    assert not [line for line in lines if token in line], "no token on a command line"

    # the actor's worker is killed: the job goes on from its last stable checkpoint and says so
    log = home.train("logs", "digits").stdout
    first = int(re.findall(r"The rollout actor is process (\d+)\.", log)[-1])
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: "Resumed from" in home.status()["status"]["note"], "the resumption", 600)
    assert f"The rollout actor's process {first} died. Going on from step-" in home.train("logs", "digits").stdout

    # cancel: a checkpoint, and no process or actor
    cancelled = home.train("cancel", "digits", "--json", timeout=600)
    assert cancelled.returncode == 0, cancelled.stderr
    assert json.loads(cancelled.stdout)["state"] == "cancelled"
    reached = home.committed()[-1]
    wait_for(lambda: not actors(head), "the end of all actors", 60)
    wait_for(lambda: not of_the_run(head), "the end of all its processes", 60)

    # resume goes where it was, and the whole job killed by SIGKILL is seen to be lost
    assert home.train("resume", "digits").returncode == 0
    wait_for(lambda: home.committed()[-1] > reached, "a later checkpoint", 600)
    assert f"Resumed from {reached}." in home.status()["status"]["note"]
    os.kill(home.status()["job"]["process"]["pid"], signal.SIGKILL)
    wait_for(lambda: home.status()["state"] == "lost", "the loss", 60)
    wait_for(lambda: not actors(head), "the end of all actors", 120)

    # a head without its token, and a head that is gone
    home.environ |= {"RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    refused = home.train("logs", "digits")
    assert refused.returncode == 1 and f"The Ray head at {head.address} refuses our token." in refused.stderr
    head.end()
    gone = home.train("logs", "digits")
    assert gone.returncode == 1 and f"error: The Ray head at {head.address} cannot be reached." in gone.stderr
