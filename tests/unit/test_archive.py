"""Trees as tars: round trip, determinism, refusals, bombs."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envfarm.core.archive import ArchiveLimits, File, check_tree, pack, top_folder, unpack
from envfarm.core.errors import EnvfarmError, Reason

from ..repositories import entry, tar_of

_PART = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda part: part not in {".", ".."}
)
_PATH = st.lists(_PART, min_size=1, max_size=4).map("/".join)
_FILES = st.dictionaries(_PATH, st.builds(File, st.binary(max_size=2000), st.sampled_from([0o644, 0o755])), max_size=8)


def _sound(files: dict[str, File]) -> bool:
    return not any(other.startswith(name + "/") for name in files for other in files)


@given(_FILES.filter(_sound))
def test_round_trip(files: dict[str, File]) -> None:
    data = pack(files)
    assert unpack(data) == files
    assert pack(dict(reversed(files.items()))) == data


def test_every_compression_is_read() -> None:
    files = {"a/b": File(b"x" * 5000), "run": File(b"", 0o755), "link": File(link="a/b"), "bad\udcff": File(b"y")}
    data = pack(files)
    for packed in (data, gzip.compress(data), bz2.compress(data), lzma.compress(data)):
        assert unpack(packed) == files


@pytest.mark.parametrize(
    "name_or_entry",
    [
        "/absolute",
        "../up",
        "a/../../up",
        entry("fifo", tarfile.FIFOTYPE),
        entry("device", tarfile.CHRTYPE),
        entry("disk", tarfile.BLKTYPE),
        entry("link", tarfile.SYMTYPE, "/etc/passwd"),
        entry("link", tarfile.SYMTYPE, "../up"),
        entry("a/link", tarfile.SYMTYPE, "../../up"),
        entry("link", tarfile.SYMTYPE, "here/../../up"),
        entry("hard", tarfile.LNKTYPE, "nothing"),
        entry("hard", tarfile.LNKTYPE, "../up"),
        entry("../folder", tarfile.DIRTYPE),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.name}-{value.linkname}",
)
def test_unsafe_entries_are_refused(name_or_entry: str | tarfile.TarInfo) -> None:
    name = name_or_entry if isinstance(name_or_entry, str) else name_or_entry.name
    content = "x" if isinstance(name_or_entry, str) else name_or_entry
    with pytest.raises(EnvfarmError) as caught:
        unpack(tar_of({"fine": "x", name: content}))
    assert caught.value.reason is Reason.archive_refused and caught.value.phase == "unpack"


def test_nothing_may_lie_below_a_link_or_a_file() -> None:
    for files in ({"a": File(link="b"), "a/x": File()}, {"a": File(), "a/x/y": File()}):
        with pytest.raises(EnvfarmError, match="is no folder"):
            check_tree(files)
    with pytest.raises(EnvfarmError, match="is no folder"):
        unpack(tar_of({"d": entry("d", tarfile.SYMTYPE, "e"), "d/x": "x"}))


def test_hard_links_become_copies_and_set_id_bits_go() -> None:
    info = tarfile.TarInfo("tool")
    info.mode = 0o4755
    files = unpack(tar_of({"tool": info, "again": entry("again", tarfile.LNKTYPE, "tool")}))
    assert files == {"tool": File(b"", 0o755), "again": File(b"", 0o755)}


def test_bombs_are_refused() -> None:
    bomb = gzip.compress(tar_of({"zeros": b"\0" * 5_000_000}))
    with pytest.raises(EnvfarmError, match="unpacks to more than 1,000,000 bytes"):
        unpack(bomb, ArchiveLimits(total_bytes=1_000_000))
    with pytest.raises(EnvfarmError, match="more than 10 entries"):
        unpack(tar_of({f"f{number}": "" for number in range(11)}), ArchiveLimits(entries=10))
    headers = tarfile.TarInfo("x")
    headers.pax_headers = {"comment": "c" * 3_000_000}
    with pytest.raises(EnvfarmError, match="unpacks to more"):
        unpack(gzip.compress(tar_of({"x": headers})), ArchiveLimits(total_bytes=1_000_000))


@given(st.binary(max_size=3000))
def test_garbage_is_one_error(data: bytes) -> None:
    for attempt in (data, b"\x1f\x8b" + data, b"BZh" + data, b"\xfd7zXZ" + data):
        try:
            unpack(attempt)
        except EnvfarmError as error:
            assert error.reason is Reason.archive_refused


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_flipped_byte_never_escapes(position: int, value: int) -> None:
    data = bytearray(gzip.compress(pack({"a/b.py": File(b"print(1)\n" * 40)}), mtime=0))
    data[position % len(data)] = value
    try:
        check_tree(unpack(bytes(data)))
    except EnvfarmError as error:
        assert error.reason is Reason.archive_refused


def test_top_folder() -> None:
    assert top_folder(["a/b", "a/c/d"]) == "a"
    assert top_folder(["a/b", "c"]) is None
    assert top_folder(["a/b", "b/c"]) is None
