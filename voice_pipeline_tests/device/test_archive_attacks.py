"""Each test plays an archive that somebody with a stolen targets key made: the device unpacks none of it outside its
staging folder, never more than it has room for, and goes on with V1.
"""

from __future__ import annotations

import io
import lzma
import tarfile
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.device import archive as module
from voice_pipeline.device.archive import MAX_DECODER_BYTES, MAX_MEMBERS, unpack
from voice_pipeline.device.errors import UpdateRefusedError
from voice_pipeline.packaging.archive import pack
from voice_pipeline_tests.device.attacked import Refused, device, edge, prepared, refused, thief
from voice_pipeline_tests.device.conftest import V2, Edge
from voice_pipeline_tests.device.thief import Thief

__all__ = ["device", "edge", "prepared", "refused", "thief"]

INSIDE = f"{V2}/manifest.json"
Entry = tuple[tarfile.TarInfo, bytes]


def plain(name: str, content: bytes = b"x") -> Entry:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def special(name: str, kind: bytes, target: str = "") -> Entry:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def tar(*entries: Entry, form: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as made:
        for info, content in entries:
            made.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def sparse() -> bytes:
    """A GNU sparse file: a header that promises more than there is."""
    data = bytearray(tar(plain(INSIDE)))
    data[156:157] = tarfile.GNUTYPE_SPARSE
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


TARS = {
    "symbolic link": tar(special(INSIDE, tarfile.SYMTYPE, "/etc/passwd")),
    "hard link": tar(special(INSIDE, tarfile.LNKTYPE, "../../active.json")),
    "link, then a file through it": tar(special(f"{V2}/a", tarfile.SYMTYPE, "/tmp"), plain(f"{V2}/a/b")),
    "device": tar(special(INSIDE, tarfile.CHRTYPE)),
    "pipe": tar(special(INSIDE, tarfile.FIFOTYPE)),
    "folder": tar(special(f"{V2}/golden", tarfile.DIRTYPE)),
    "absolute path": tar(plain("/tmp/evil")),
    "climbing path": tar(plain(f"{V2}/../../../evil")),
    "climbing path from the start": tar(plain(f"../{V2}/evil")),
    "file beside the bundle": tar(plain("active.json")),
    "signature of another": tar(plain("m-20261102-00000009.sig")),
    "the bundle's folder as a file": tar(plain(V2)),
    "no name": tar(plain("")),
    "twice the same": tar(plain(INSIDE), plain(INSIDE)),
    "a file as a folder": tar(plain(f"{V2}/a"), plain(f"{V2}/a/b")),
    "long name (GNU)": tar(plain(f"{V2}/" + "a" * 300), form=tarfile.GNU_FORMAT),
    "extended header (pax)": tar(plain(f"{V2}/" + "ä" * 200), form=tarfile.PAX_FORMAT),
    "sparse": sparse(),
    "negative length": tar(plain(INSIDE))[:124] + b"\xff" * 12 + tar(plain(INSIDE))[136:],
    "length beyond the end": tar(plain(INSIDE, b"x" * 600))[:1024],
    "damaged header": b"\x01" + tar(plain(INSIDE))[1:],
    "something after its last file": tar(plain(INSIDE)) + tar(plain("../evil")),
    "nothing": b"",
    "no tar": b"Once upon a time there was a model. " * 100,
}
COMPRESSED = {
    "no xz": tar(plain(INSIDE)),
    "other compression": lzma.compress(tar(plain(INSIDE)), format=lzma.FORMAT_ALONE),
    "cut off": lzma.compress(tar(plain(INSIDE, b"x" * 5_000)))[:-20],
    "something after its end": lzma.compress(tar(plain(INSIDE)) + b"\0" * 10_240) + b"more",
    "two streams": lzma.compress(tar(plain(INSIDE))[:512]) + lzma.compress(tar(plain(INSIDE))[512:]),
    "dictionary larger than a device's memory": lzma.compress(
        tar(plain(INSIDE, b"x" * 600)),
        filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**20, "preset": 0}],
    ),
}


@pytest.mark.parametrize("name", ["symbolic link", "climbing path", "absolute path", "long name (GNU)"])
def test_archive_with_a_hostile_member_is_refused(thief: Thief, refused: Refused, edge: Edge, name: str) -> None:
    thief.offer(V2, lzma.compress(TARS[name], preset=0))
    refused(UpdateRefusedError, f"archive of {V2} holds")


def bomb(size: int) -> bytes:
    """An archive of `size` zeros."""
    compressor = lzma.LZMACompressor(preset=0)
    info = tarfile.TarInfo(INSIDE)
    info.size = size
    parts = [compressor.compress(info.tobuf(tarfile.USTAR_FORMAT))]
    parts += [compressor.compress(bytes(2**20)) for _ in range(size // 2**20)]
    return b"".join([*parts, compressor.flush()])


def test_xz_bomb_is_refused(
    thief: Thief, refused: Refused, edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bomb(50 * 2**20)
    assert len(data) < 100_000
    monkeypatch.setattr(module.unpack, "__defaults__", (10 * 2**20,))  # 400 MB take this machine a while
    thief.offer(V2, data)
    refused(UpdateRefusedError, "more than a device takes")


def test_unpacking_never_holds_a_whole_member(tmp_path: Path) -> None:
    (tmp_path / "x.xz").write_bytes(bomb(30 * 2**20))
    tracemalloc.start()
    try:
        with pytest.raises(UpdateRefusedError, match="more than a device takes"):
            unpack(tmp_path / "x.xz", tmp_path / "into", V2, limit=20 * 2**20)
        assert tracemalloc.get_traced_memory()[1] < 3 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", TARS)
@pytest.mark.parametrize("compressed", [True, False])
def test_tar_that_no_publisher_makes_is_refused(tmp_path: Path, name: str, compressed: bool) -> None:
    path = tmp_path / ("a.xz" if compressed else "a.tar")
    path.write_bytes(lzma.compress(TARS[name], preset=0) if compressed else TARS[name])
    into = tmp_path / "outer" / "into"
    with pytest.raises(UpdateRefusedError, match="update refused"):
        unpack(path, into, V2)
    outside = {found for found in tmp_path.rglob("*") if found.is_file() and into not in found.parents}
    assert outside == {path}
    assert not any(found.is_symlink() for found in tmp_path.rglob("*"))


@pytest.mark.parametrize("name", COMPRESSED)
def test_compression_that_no_publisher_makes_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.startswith("dictionary"):
        monkeypatch.setattr(module, "MAX_DECODER_BYTES", 2**19)
    (tmp_path / "a.xz").write_bytes(COMPRESSED[name])
    with pytest.raises(UpdateRefusedError, match="cannot be unpacked"):
        unpack(tmp_path / "a.xz", tmp_path / "into", V2)


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "fsync", lambda _: None)
    (tmp_path / "a.tar").write_bytes(tar(*(plain(f"{V2}/{n}") for n in range(MAX_MEMBERS + 1))))
    with pytest.raises(UpdateRefusedError, match="more than 1000 files"):
        unpack(tmp_path / "a.tar", tmp_path / "into", V2)


@pytest.mark.parametrize("preset", [0, 6, 9, 9 | lzma.PRESET_EXTREME])
def test_what_publishers_make_is_unpacked(edge: Edge, tmp_path: Path, preset: int) -> None:
    folder = edge.settings.bundles / V2
    path = tmp_path / "a.xz"
    path.write_bytes(lzma.compress(pack(folder, "x.tar"), preset=preset))
    unpack(path, tmp_path / "into", V2)
    made = {found.relative_to(tmp_path / "into"): found.read_bytes() for found in files(tmp_path / "into")}
    asked = {found.relative_to(folder.parent): found.read_bytes() for found in files(folder)}
    asked[Path(f"{V2}.sig")] = (folder.parent / f"{V2}.sig").read_bytes()
    assert made == asked
    assert MAX_DECODER_BYTES < 100 * 2**20


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 3_000), st.integers(0, 255)), min_size=1, max_size=8),
    st.booleans(),
)
def test_no_damage_makes_it_write_elsewhere_or_fail_otherwise(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], compressed: bool
) -> None:
    """Bytes of a sound archive are changed anywhere: it is unpacked inside its folder, or refused."""
    root = tmp_path_factory.mktemp("fuzz")
    sound = tar(plain(INSIDE, b"y" * 700), plain(f"{V2}/golden/a.wav", b"z" * 40), plain(f"{V2}.sig"))
    data = bytearray(lzma.compress(sound, preset=0) if compressed else sound)
    for where, value in changes:
        data[where % len(data)] = value
    path = root / ("a.xz" if compressed else "a.tar")
    path.write_bytes(data)
    with suppress(UpdateRefusedError):
        unpack(path, root / "outer" / "into", V2, limit=100_000)
    inside = root / "outer" / "into"
    assert {found for found in files(root) if inside not in found.parents} == {path}
