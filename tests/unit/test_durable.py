"""A file that is written is there whole, or as it was before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from envfarm.core import durable
from envfarm.core.durable import write_file


def test_a_file_is_replaced_whole_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in (b"one", b"two"):
        write_file(path, text)
        assert path.read_bytes() == text
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_many_writers_of_one_file_leave_one_whole_text(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    texts = [bytes([65 + number]) * (100_000 + number) for number in range(6)]
    seen: list[bytes] = []

    def write(text: bytes) -> None:
        for _ in range(2):
            write_file(path, text)
            seen.append(path.read_bytes())

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, texts))
    assert len(seen) == 12 and set(seen) <= set(texts)
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_what_a_killed_writer_left_is_taken_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    (tmp_path / ".a.json.new").write_bytes(b"a part of something longer")
    write_file(path, b"whole")
    assert path.read_bytes() == b"whole" and [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_file(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old" and [each.name for each in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(FileNotFoundError):
        write_file(tmp_path / "none" / "a.json", b"x")
