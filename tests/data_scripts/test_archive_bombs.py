"""Archives made to hurt: bounded memory and time, one line about the archive, no file left."""

import gzip
import io
import random
import stat
import struct
import tarfile
import time
import tracemalloc
import zipfile

import pytest

from funnel.utils.errors import FunnelError
from funnel_data.downloads.archives import ArchiveError, unpack

CONTENT = b"label\ttext\n" * 500
MEGABYTE = 1 << 20


def tar_header(name, size, kind=tarfile.REGTYPE, **facts):
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    for key, value in facts.items():
        setattr(entry, key, value)
    return entry.tobuf(tarfile.GNU_FORMAT)


def padded(content):
    return content + bytes(-len(content) % 512)


def tar_file(name, content=CONTENT):
    return tar_header(name, len(content)) + padded(content)


def pax(*records):
    """Return an extended header of (key, value) records."""
    lines = b""
    for key, value in records:
        line = f" {key}={value}\n".encode("utf-8", "surrogateescape")
        size = len(line) + 2
        while len(str(size)) + len(line) != size:
            size = len(str(size)) + len(line)
        lines += str(size).encode() + line
    return tar_header("pax", len(lines), tarfile.XHDTYPE) + padded(lines)


def write_tar(path, *blocks, end=bytes(1024)):
    with gzip.open(path, "wb", 6) as stream:
        for block in (*blocks, end):
            stream.write(block)
    return path


def write_zip(path, *names, method=zipfile.ZIP_DEFLATED, content=CONTENT):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name)
            entry.external_attr, entry.compress_type = (stat.S_IFREG | 0o644) << 16, method
            archive.writestr(entry, content)
    return path


def refuse(archive, folder, message, megabytes=20, keep=("**",)):
    """Check that an archive is refused within bounds, and that nothing of it is left."""
    tracemalloc.start()
    begin = time.process_time()
    with pytest.raises(ArchiveError, match=message) as caught:
        unpack(archive, folder, keep)
    peak, seconds = tracemalloc.get_traced_memory()[1], time.process_time() - begin
    tracemalloc.stop()
    assert str(archive) in str(caught.value) and "\n" not in str(caught.value)
    assert not folder.exists() or not list(folder.iterdir())
    assert peak < megabytes * MEGABYTE and seconds < 10


def test_an_extended_header_of_any_size_is_not_read(tmp_path):
    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, b"X", b"K"):
        header = tar_header("pax", 1 << 28, kind)
        archive = write_tar(tmp_path / "x.tgz", header, bytes(32 * MEGABYTE), end=b"")
        refuse(archive, tmp_path / "out", "extended header has 268435456 bytes")


def test_the_rest_of_a_stream_counts(tmp_path):
    archive = write_tar(tmp_path / "x.tgz", tar_file("a"), bytes(1024), end=bytes(100 * MEGABYTE))
    refuse(archive, tmp_path / "out", "unpacks to over 100 times its size")
    many = write_tar(tmp_path / "y.tgz", *[tar_file("a", b"")] * 3, bytes(80 * MEGABYTE))
    refuse(many, tmp_path / "out", "holds a twice")


def test_a_member_that_is_not_kept_counts(tmp_path):
    big = tar_header("big", 100 * MEGABYTE) + bytes(100 * MEGABYTE)
    archive = write_tar(tmp_path / "x.tgz", tar_file("a.tsv"), big)
    refuse(archive, tmp_path / "out", "unpacks to over 100 times", keep=("*.tsv",))


def test_sizes_and_headers_that_no_archive_has(tmp_path):
    negative = bytearray(tar_header("a", 0))
    negative[124:136] = b"\xff" * 12  # -1 in base 256
    negative[148:156] = b" " * 8
    negative[148:156] = f"{sum(negative):06o}\0 ".encode()
    huge = tar_header("a", 1 << 60)
    cases = {
        "negative size": bytes(negative),
        "unexpected end of data": huge,
        "has the size '-1'": pax(("size", -1)) + tar_file("a"),
        "has the size '9999": pax(("size", "9" * 5000)) + tar_file("a"),
        "no list of": tar_header("pax", 20, tarfile.XHDTYPE) + padded(b"99999 path=a\n"),
        "a sparse file": pax(("GNU.sparse.major", 1), ("GNU.sparse.minor", 0)) + tar_file("a"),
        "sparse": tar_header("a", 0, tarfile.GNUTYPE_SPARSE),
        "checksum|invalid|bad": b"\x01" * 512,
    }
    for message, blocks in cases.items():
        archive = write_tar(tmp_path / "x.tgz", blocks)
        refuse(archive, tmp_path / "out", message)


NAMES = {
    "": "has no name",
    ".": "has no name",
    "./": "has no name",
    "a/.": "has no name",
    "x" * 256: "over 255 bytes",
    "d/" + "é" * 128: "over 255 bytes",
    "d/" * 70 + "a": "over 64 parts",
    "a\0b": "NUL",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_that_no_file_can_have(tmp_path, name):
    header = pax(("path", name)) if name else b""
    member = tar_file("a") if name else tar_file("")
    archive = write_tar(tmp_path / "x.tgz", tar_file("first.tsv"), header, member)
    refuse(archive, tmp_path / "out", NAMES[name])
    if name not in ("", "./", "a\0b"):  # zip has no such files
        zipped = write_zip(tmp_path / "x.zip", "first.tsv", name)
        refuse(zipped, tmp_path / "out", NAMES[name])


def test_long_names_that_a_file_can_have(tmp_path):
    name = "d" * 200 + "/" + "é" * 127
    for archive in (
        write_tar(tmp_path / "x.tgz", pax(("path", name)), tar_file("a")),
        write_zip(tmp_path / "x.zip", name),
    ):
        (file,) = unpack(archive, tmp_path / f"{archive.name}.out")
        assert file.read_bytes() == CONTENT and file.name == "é" * 127
    with tarfile.open(tmp_path / "gnu.tgz", "w:gz", format=tarfile.GNU_FORMAT) as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(CONTENT)
        archive.addfile(entry, io.BytesIO(CONTENT))
    (file,) = unpack(tmp_path / "gnu.tgz", tmp_path / "gnu")
    assert file == tmp_path / "gnu" / name


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("d/a/b/c", "D/A"), ("a", "A/b/c")])
def test_a_file_named_like_a_folder(tmp_path, names):
    for archive in (
        write_tar(tmp_path / "x.tgz", *map(tar_file, names)),
        write_zip(tmp_path / "x.zip", *names),
    ):
        refuse(archive, tmp_path / "out", "holds both a file")


def test_a_file_that_is_there_already_is_kept(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "b").write_text("mine")
    archive = write_tar(tmp_path / "x.tgz", tar_file("c/a"), tar_file("b"))
    with pytest.raises(ArchiveError, match="b is already in"):
        unpack(archive, folder)
    assert [path.name for path in folder.rglob("*")] == ["b"]
    assert (folder / "b").read_text() == "mine"


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_bad_stream_in_a_zip_file(tmp_path, method):
    archive = write_zip(tmp_path / "x.zip", "a", "b", method=method)
    (file, other) = unpack(archive, tmp_path / "good")
    assert file.read_bytes() == other.read_bytes() == CONTENT
    raw = bytearray(archive.read_bytes())
    start = 30 + 1 + (9 if method == zipfile.ZIP_LZMA else 0)
    raw[start : start + 12] = b"\xff" * 12
    archive.write_bytes(raw)
    refuse(archive, tmp_path / "out", "corrupt archive")


def test_zip_members_that_overlap(tmp_path):
    archive = write_zip(tmp_path / "x.zip", "a", "b")
    raw = bytearray(archive.read_bytes())
    second = raw.rindex(b"PK\x01\x02")
    raw[second + 42 : second + 46] = struct.pack("<I", 0)  # the local header of the first
    archive.write_bytes(raw)
    refuse(archive, tmp_path / "out", "members overlap: '[ab]'")


def test_zip_bombs_are_refused_before_they_are_unpacked(tmp_path):
    archive = write_zip(tmp_path / "x.zip", "a", "b", content=bytes(40 * MEGABYTE))
    refuse(archive, tmp_path / "out", "unpacks to over 100 times")
    unpack(write_zip(tmp_path / "y.zip", "a.tsv", "b"), tmp_path / "out", ("*.tsv",))


def test_a_zip_file_that_lies_about_a_size(tmp_path):
    archive = write_zip(tmp_path / "x.zip", "a", content=bytes(40 * MEGABYTE))
    raw = bytearray(archive.read_bytes())
    entry = raw.rindex(b"PK\x01\x02")
    raw[entry + 24 : entry + 28] = struct.pack("<I", 100)
    archive.write_bytes(raw)
    refuse(archive, tmp_path / "out", "corrupt archive: Bad CRC-32")


def test_other_compressions_of_tar_files(tmp_path):
    for mode in ("gz", "bz2", "xz"):
        archive = tmp_path / f"{mode}.tar.{mode}"
        with tarfile.open(archive, f"w:{mode}") as opened:
            entry = tarfile.TarInfo("a")
            entry.size = len(CONTENT)
            opened.addfile(entry, io.BytesIO(CONTENT))
        assert unpack(archive, tmp_path / mode)[0].read_bytes() == CONTENT
        raw = bytearray(archive.read_bytes())
        raw[len(raw) // 2] ^= 0xFF
        archive.write_bytes(raw)
        refuse(archive, tmp_path / "out", "corrupt archive")
    missing = tmp_path / "missing.tgz"
    refuse(missing, tmp_path / "out", "missing.tgz: cannot be read")


def _mutated(rng, good):
    raw = bytearray(good)
    for _ in range(rng.randint(1, 3)):
        at, end = sorted(rng.randrange(len(raw)) for _ in range(2))
        kind = rng.randrange(5)
        if kind == 0:
            raw[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            raw[at : at + 4] = rng.choice([bytes(4), b"\xff" * 4, rng.randbytes(4)])
        elif kind == 2:
            del raw[at : min(end, at + 600)]
        elif kind == 3:
            raw[at:at] = raw[at : min(end, at + 600)]
        else:
            raw[at:at] = rng.randbytes(rng.randint(1, 40))
    return bytes(raw)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_mutated_archives_are_refused_or_unpacked(tmp_path, kind):
    """Damage in the structure: a tar file's is done before compression, which has a checksum."""
    rng, refusals = random.Random(3), 0
    good = (
        tar_file("d/a.tsv") + pax(("path", "d/b.tsv")) + tar_file("x") + tar_file("c") + bytes(99)
    )
    if kind == "zip":
        good = write_zip(tmp_path / "good.zip", "d/a.tsv", "d/b.tsv", "c").read_bytes()
    tracemalloc.start()
    for number in range(300):
        mutated, folder = _mutated(rng, good), tmp_path / f"out-{number}"
        archive = tmp_path / ("x.zip" if kind == "zip" else "x.tgz")
        if kind == "zip":
            archive.write_bytes(mutated)
        else:
            write_tar(archive, mutated)
        try:
            files = unpack(archive, folder)
        except FunnelError as error:
            refusals += 1
            assert str(archive) in str(error) and "\n" not in str(error)
            assert not folder.exists()
        else:
            assert files and all(file.is_file() and folder in file.parents for file in files)
            if kind == "zip":
                assert all(file.read_bytes() == CONTENT for file in files)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 100 < refusals < 300 and peak < 20e6


def test_very_many_members(tmp_path, monkeypatch):
    archive = write_tar(tmp_path / "x.tgz", tar_header("a", 0) * 3001)
    monkeypatch.setattr("funnel_data.downloads.archives._MAX_MEMBERS", 3000)
    refuse(archive, tmp_path / "out", "holds more than 3000 members", keep=("b",))
    zipped = write_zip(tmp_path / "x.zip", *(f"n{number}" for number in range(2000)), content=b"")
    with zipfile.ZipFile(zipped) as opened:
        size = opened.fp.seek(0, io.SEEK_END) - 22 - opened.start_dir
    monkeypatch.setattr("funnel_data.downloads.archives._MAX_DIRECTORY", size)
    assert len(unpack(zipped, tmp_path / "out")) == 2000
    monkeypatch.setattr("funnel_data.downloads.archives._MAX_DIRECTORY", size - 1)
    refuse(zipped, tmp_path / "none", f"its directory has {size} bytes")


def test_the_directory_of_a_large_zip_file(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 10)  # more members need 64-bit records
    zipped = write_zip(tmp_path / "x.zip", *(f"n{number}" for number in range(20)))
    assert b"PK\x06\x06" in zipped.read_bytes()
    monkeypatch.setattr("funnel_data.downloads.archives._MAX_DIRECTORY", 20 * (46 + 2))
    refuse(zipped, tmp_path / "out", "its directory has 970 bytes, over 960")
    monkeypatch.setattr("funnel_data.downloads.archives._MAX_DIRECTORY", 970)
    assert len(unpack(zipped, tmp_path / "out")) == 20
