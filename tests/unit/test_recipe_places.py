"""Toolchains, generated files and the place of an environment on disk."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from envfarm_builders.recipes.elf import relocate_library_path
from envfarm_builders.recipes.generated import LIMIT_BYTES, generated_files
from envfarm_builders.recipes.installed import mentioned_names
from envfarm_builders.recipes.interpreters import discover
from envfarm_builders.recipes.place import MANIFEST, Place
from envfarm_builders.recipes.uv import place_compiled

from envfarm.core.archive import File
from envfarm.core.environment import ENV_DIR, TOOLCHAIN_DIR, Environment, Layer


def environment(source: str) -> Environment:
    layers = (Layer(source="toolchains/x", target=TOOLCHAIN_DIR), Layer(source=source, target=ENV_DIR))
    return Environment(recipe_digest="sha256:0", toolchain="3.11", layers=layers, built_at=datetime.now(UTC))


async def test_a_finished_environment_is_found_and_a_killed_build_is_swept(tmp_path: Path):
    place = Place(tmp_path / "envs", "abc")
    async with place.locked():
        assert place.read() is None
        dead = place.stage(None)
        (dead / "env" / "half").write_text("x")
        staging = place.stage(None)
        assert not dead.exists()
        placed = place.finish(staging, environment(f"envs/{staging.name}/env"))
    assert placed.layers[1].source == "envs/abc/env" and (tmp_path / placed.layers[1].source).is_dir()
    assert place.read() == placed
    assert sorted(path.name for path in place.folder.iterdir()) == [".abc.lock", "abc"]


async def test_a_damaged_manifest_is_no_environment(tmp_path: Path):
    place = Place(tmp_path, "abc")
    place.target.mkdir()
    (place.target / MANIFEST).write_text("{")
    assert place.read() is None


async def test_one_builder_at_a_time(tmp_path: Path):
    order: list[str] = []

    async def build(name: str) -> None:
        async with Place(tmp_path, "abc").locked():
            order.append(f"{name} in")
            await asyncio.sleep(0.05)
            order.append(f"{name} out")

    await asyncio.gather(build("a"), build("b"))
    assert [row.split()[1] for row in order] == ["in", "out", "in", "out"]


def test_generated_files_are_new_or_changed_and_no_copies():
    before = {"pkg/a.py": File(b"1"), "pkg/version.py": File(b"old")}
    after = before | {
        "pkg/version.py": File(b"new"), "pkg/_c.so": File(b"elf"), "build/lib/pkg/a.py": File(b"1"),
        "pkg/__pycache__/a.pyc": File(b"x"), "thing.egg-info/PKG-INFO": File(b"m"), "dist/x.whl": File(b"w"),
    }  # fmt: skip
    assert set(generated_files(before, after)) == {"pkg/version.py", "pkg/_c.so"}


def test_generated_files_stay_below_the_limit():
    huge = File(b"x" * (LIMIT_BYTES + 1))
    assert set(generated_files({}, {"a.so": huge, "b.so": File(b"y")})) == {"b.so"}


def test_files_that_are_no_program_are_left_alone(tmp_path: Path):
    for name, data in {"empty": b"", "text": b"#!/bin/sh\n", "cut": b"\x7fELF\x02\x01" + b"\0" * 58}.items():
        path = tmp_path / name
        path.write_bytes(data)
        assert relocate_library_path(path, "/somewhere") is False
        assert path.read_bytes() == data


def test_discovery_finds_this_interpreter_and_passes_over_broken_ones(tmp_path: Path):
    broken = tmp_path / "bin" / "python3"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    found = discover({"PATH": str(broken.parent), "HOME": str(tmp_path)})
    assert f"{sys.version_info[0]}.{sys.version_info[1]}" in {each.minor for each in found}


@pytest.mark.slow
def test_a_toolchain_works_away_from_its_origin_and_has_no_packages(tmp_path: Path):
    from envfarm_builders.recipes.toolchain import ensure_toolchain

    interpreter = discover()[0]
    folder = ensure_toolchain(tmp_path, interpreter)
    assert ensure_toolchain(tmp_path, interpreter) == folder
    script = "import sys, ssl, sysconfig; print(sys.prefix); print(sysconfig.get_config_var('LIBDIR')); import pip"
    ran = subprocess.run([folder / "bin/python3", "-c", script], capture_output=True, text=True, env={}, check=False)
    assert ran.stdout.splitlines() == [str(folder), f"{TOOLCHAIN_DIR}/lib"]
    assert "No module named 'pip'" in ran.stderr
    assert all(path.stat().st_mode & 0o004 for path in folder.rglob("*") if not path.is_symlink())


def test_what_an_install_made_is_placed_where_the_tree_has_the_package(tmp_path: Path):
    site, repo = tmp_path / "site", tmp_path / "repo"
    for path in ("thing/__init__.py", "thing/_fast.so", "thing/sub/made.py", "thing.libs/libx-1.so.1", "other.so"):
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text("installed")
    info = site / "thing-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1\n")
    rows = (
        "thing/__init__.py",
        "thing/_fast.so",
        "thing/sub/made.py",
        "thing.libs/libx-1.so.1",
        "other.so",
        "../../bin/thing",
    )
    (info / "RECORD").write_text("".join(f"{row},,\n" for row in rows))
    (repo / "src" / "thing").mkdir(parents=True)  # its C sources
    (repo / "thing").mkdir()
    (repo / "thing" / "__init__.py").write_text("tree")
    argv = (sys.executable, *place_compiled("thing")[1:])
    done = subprocess.run(argv, cwd=repo, env={"PYTHONPATH": str(site)}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["thing/_fast.so", "thing.libs/libx-1.so.1"]
    assert (repo / "thing" / "__init__.py").read_text() == "tree" and not list((repo / "src" / "thing").iterdir())


def test_names_that_installed_distributions_mention_extras_included(tmp_path: Path):
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    for name in ("moto", "linked", "fifo"):
        (site / f"{name}-1.dist-info").mkdir(parents=True)
    text = "Name: moto\nRequires-Dist: boto3>=1\nRequires-Dist: Flask_Cors ; extra == 'server'\n\nRequires nothing\n"
    (site / "moto-1.dist-info" / "METADATA").write_text(text)
    (tmp_path / "secret").write_text("Requires-Dist: secret\n")
    (site / "linked-1.dist-info" / "METADATA").symlink_to(tmp_path / "secret")
    os.mkfifo(site / "fifo-1.dist-info" / "METADATA")
    assert mentioned_names(tmp_path) == {"boto3", "flask-cors"}
