"""The launcher: imports pytest before any path of the tree is searched, runs the session, closes the channel."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import time
import unittest.case  # noqa: F401  watched: loaded before the subject can touch it

import pytest
from _pytest.config import default_plugins

from envfarm_verifiers.inbox.channel import open_channel
from envfarm_verifiers.inbox.paths import restore
from envfarm_verifiers.inbox.reporter import Reporter, split_selection
from envfarm_verifiers.inbox.tracer import Tracer
from envfarm_verifiers.inbox.watch import HOT, SessionWatch, Watch, altered, set_tripwires


def main(job, held):
    """Run the job and end the process with the session's status.

    ``job``: see ``envfarm_verifiers.launch``. ``held``: what ``paths.hide`` gave.
    """
    leave, flush = os._exit, (sys.stdout.flush, sys.stderr.flush)
    root = job["root"]
    os.chdir(root)
    send = open_channel(job["descriptor"], bytes.fromhex(job.pop("key")))
    send({"k": "start", "python": sys.version.split()[0], "pytest": pytest.__version__})
    paths, files, ids = split_selection(job["only"], root)
    plugin = Reporter(send, files=files, ids=ids, tracer=Tracer(root, job["trace"]) if job["trace"] else None)
    guarded = job["trusted"] is not None
    if guarded:
        session = SessionWatch(plugin, send)
        plugin.begin, plugin.check = session.begin, _checker(send, root, job["trusted"], session)
    restore(held, job["front"], job["back"])
    arguments = job["args"] + options(root, job["scratch"]) + (paths if ids is not None else job["paths"])
    sys.argv = ["pytest", *arguments]
    if ids is not None and not paths:
        status = 5
    else:
        if guarded:
            set_tripwires(send)
        status = int(pytest.main(arguments, plugins=[plugin]))
        plugin.check("end")
    for function in flush:
        # A test may have closed or replaced the stream: its output is lost, its status is not.
        with contextlib.suppress(OSError, ValueError):
            function()
    send({"k": "end", "exit": status, "tests": plugin.tests})
    leave(status)


def options(root, scratch):
    """What is laid over the project's own pytest settings: no early stop, no reordering, no parallel workers, no
    state from earlier runs. Plugins are asked by their own options, since a project's settings may name those.

    Tracebacks are Python's own: pytest's parse the whole test file again for each entry, 20 ms and more a failure."""
    chosen = [
        "--rootdir=" + root, "-o", "cache_dir=" + scratch + "/.pytest_cache", "--color=no", "--tb=native",
        "--maxfail=0", "--continue-on-collection-errors",
    ]  # fmt: skip
    for module, extra in (
        ("xdist", ["-n0"]),
        ("pytest_cov", ["--no-cov"]),
        ("pytest_randomly", ["--randomly-seed=0", "--randomly-dont-reorganize"]),
        ("random_order", ["--random-order-bucket=none"]),
        ("pytest_rerunfailures", ["--reruns=0"]),
    ):
        if _installed(module):
            chosen += extra
    return chosen


def _installed(module):
    spec = importlib.util.find_spec(module)
    return spec is not None and "site-packages" in (spec.origin or "")


def _checker(send, root, trusted, session):
    """``check(moment)``: compare identities. Everything after collection and at the end, and after a test whenever
    that has cost less than 2 % of the time so far; else the hot part, which may cost 5 % and more only by lot."""
    for name in default_plugins:
        importlib.import_module("_pytest." + name)
    everything = Watch()
    hot = Watch(HOT)
    trace, profile, now, lot = sys.gettrace(), sys.getprofile(), time.monotonic, os.urandom
    gettrace, getprofile = sys.gettrace, sys.getprofile
    began = now()
    spent = {True: 0.0, False: 0.0}
    told = set()

    def check(moment):
        start = now()
        full = moment != "test" or spent[True] < 0.02 * (start - began)
        if not full and spent[False] > 0.05 * (start - began) and lot(1)[0] >= 16:
            return
        found = (everything if full else hot).changes() + session.changes()
        if moment != "test":
            found += altered(root, trusted)
        if gettrace() is not trace:
            found.append("sys.settrace")
        if getprofile() is not profile:
            found.append("sys.setprofile")
        new = [name for name in found if name not in told]
        if new:
            told.update(new)
            send({"k": "changed", "moment": moment, "names": new[:500]})
        spent[full] += now() - start

    return check
