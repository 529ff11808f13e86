"""Jobs of a Ray cluster, through its Jobs API. The cluster sees this home and this Python at the same paths."""

from __future__ import annotations

import asyncio
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from envfarm.core.errors import Reason, TrainerError
from envfarm.telemetry.training import Job, State, Where, write_job

from .local import GRACE_SEC

_POLL_SEC = 0.5


def submit(folder: Path, command: Sequence[str], job: Job, address: str) -> Job:
    """Send ``command`` to the head at ``address`` (``http://host:8265``) and record the job.

    Raises ``TrainerError`` (engine_failed) where the head cannot be reached or refuses us. The token goes with the
    request as Ray reads it (``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH`` or its file), never with the command.
    """
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(int(GRACE_SEC))}
    if threads := os.environ.get("OMP_NUM_THREADS"):
        variables["OMP_NUM_THREADS"] = threads
    # before the job can claim the run: its own record has the last word
    sent = job.model_copy(update={"on": Where.ray, "address": address, "actors": True})
    with _head(address) as client:
        sent = sent.model_copy(update={"submission": f"envfarm-{folder.name}-{time.time_ns():x}"})
        write_job(folder, sent)
        client.submit_job(
            entrypoint=shlex.join(command), submission_id=sent.submission, runtime_env={"env_vars": variables}
        )
    return sent


def state(job: Job, told: State) -> State:
    """How a run stands whose files say ``told``: a job that Ray saw end does not run any more. Raises as submit."""
    if told.ended:
        return told
    with _head(job.address) as client:
        ended = client.get_job_status(job.submission).is_terminal()
    if not ended:
        return told
    return State.cancelled if job.cancelled else State.lost


def cancel(job: Job) -> bool:
    """Ask Ray to stop the job and wait until it has; False where it had ended before. Raises as submit."""
    with _head(job.address) as client:
        stopped = client.stop_job(job.submission)
        while not client.get_job_status(job.submission).is_terminal():
            time.sleep(_POLL_SEC)
    return stopped


def logs(job: Job, *, follow: bool) -> Iterator[str]:
    """What the job has written; with ``follow`` also what it writes, until it ends. Raises as submit."""
    with _head(job.address) as client:
        if not follow:
            yield client.get_job_logs(job.submission)
            return
        chunks = client.tail_job_logs(job.submission)
        with asyncio.Runner() as runner:
            while (text := runner.run(anext(chunks, None))) is not None:
                yield text


@contextmanager
def _head(address: str) -> Iterator[Any]:
    """A client of the head. Its failures become one sentence."""
    # Ray reads the mode once, when it is loaded; a token that is there is meant to be used.
    if any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")) or _token_file().is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        yield JobSubmissionClient(address)
    except (ConnectionError, requests.RequestException, aiohttp.ClientError) as error:  # the boundary to the cluster
        raise _failed(address, "cannot be reached", error, "Is it running, and is the port right?") from error
    except AuthenticationError as error:
        remedy = "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the head's token."
        raise _failed(address, "refuses our token", error, remedy) from error
    except RuntimeError as error:  # what the Jobs API raises for an answer that is not fine
        raise _failed(address, f"refuses: {str(error).splitlines()[0][:300]}", error) from error


def _token_file() -> Path:
    return Path.home() / ".ray" / "auth_token"


def _failed(address: str, why: str, error: Exception, remedy: str = "") -> TrainerError:
    return TrainerError(
        f"The Ray head at {address} {why}.",
        reason=Reason.cluster_unreachable,
        phase="ray",
        remedy=remedy,
        detail=f"{type(error).__name__}: {error}",
    )
