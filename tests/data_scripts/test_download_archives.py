"""Corrupt and hostile archives: a one-line error, and no file outside the target folder."""

import gzip
import io
import stat
import tarfile
import zipfile

import pytest

from funnel_data.downloads.archives import ArchiveError, unpack

CONTENT = b"label\ttext\n" * 500


def make_tar(path, *members):
    """Write an archive; members are names, or (name, attributes of the TarInfo)."""
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        for name, facts in ((m, {}) if isinstance(m, str) else m for m in members):
            entry = tarfile.TarInfo(name)
            for key, value in facts.items():
                setattr(entry, key, value)
            entry.size = len(CONTENT) if entry.isreg() else 0
            archive.addfile(entry, io.BytesIO(CONTENT) if entry.size else None)
    return path


def make_zip(path, *members):
    """Write an archive; members are names, or (name, Unix mode)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, mode in ((m, stat.S_IFREG | 0o644) if isinstance(m, str) else m for m in members):
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            archive.writestr(entry, CONTENT)
    return path


@pytest.fixture
def target(tmp_path):
    """An empty folder for the contents, so deep that ``..`` leads to a harmless place."""
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    return folder


def everything(tmp_path):
    return sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())


HOSTILE_NAMES = {
    "/tmp/out.tsv": "is absolute",
    "../out.tsv": "holds ..",
    "data/../../out.tsv": "holds ..",
    "..\\out.tsv": "holds ..",
    "C:\\out.tsv": "is absolute",
    "\\out.tsv": "is absolute",
}


@pytest.mark.parametrize("name", HOSTILE_NAMES)
@pytest.mark.parametrize(("make", "suffix"), [(make_tar, ".tgz"), (make_zip, ".zip")])
def test_paths_that_lead_out(tmp_path, target, make, suffix, name):
    archive = make(tmp_path / f"x{suffix}", name)
    with pytest.raises(ArchiveError, match=HOSTILE_NAMES[name]):
        unpack(archive, target)
    with pytest.raises(ArchiveError):  # even if the member is not kept
        unpack(archive, target, ("nothing",))
    assert everything(tmp_path) == [archive.name]


@pytest.mark.parametrize(
    "facts",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "x.tsv"},
        {"type": tarfile.CHRTYPE},
        {"type": tarfile.FIFOTYPE},
    ],
)
def test_links_and_devices(tmp_path, target, facts):
    archive = make_tar(tmp_path / "x.tgz", ("d", facts), "d/out.tsv")
    with pytest.raises(ArchiveError, match="'d': it is a link or device"):
        unpack(archive, target)
    assert everything(tmp_path) == ["x.tgz"]
    zipped = make_zip(tmp_path / "x.zip", ("d", stat.S_IFLNK | 0o777))
    with pytest.raises(ArchiveError, match="'d': it is a link or device"):
        unpack(zipped, target)


@pytest.mark.parametrize(("make", "suffix"), [(make_tar, ".tgz"), (make_zip, ".zip")])
def test_corruption_anywhere_is_detected(tmp_path, target, make, suffix):
    complete = make(tmp_path / f"x{suffix}", "d/a.tsv", "d/b.tsv").read_bytes()
    for number, cut in enumerate((10, len(complete) // 2, len(complete) - 9, len(complete) - 1)):
        archive = tmp_path / f"{number}{suffix}"
        archive.write_bytes(complete[:cut])
        with pytest.raises(ArchiveError, match="corrupt archive"):
            unpack(archive, target / str(number))
    broken = bytearray(complete)
    broken[len(complete) // 4] ^= 0xFF
    archive = tmp_path / f"flipped{suffix}"
    archive.write_bytes(broken)
    with pytest.raises(ArchiveError):
        unpack(archive, target / "flipped")


def test_a_file_twice_and_a_flood(tmp_path, target):
    with pytest.raises(ArchiveError, match="holds a.tsv twice"):
        unpack(make_tar(tmp_path / "x.tgz", "d/a.tsv", "a.tsv"), target, ("*.tsv",))
    with pytest.raises(ArchiveError, match="holds D/A.tsv twice"):  # one file on some systems
        unpack(make_tar(tmp_path / "y.tgz", "d/a.tsv", "D/A.tsv"), target / "y")
    flood = tmp_path / "flood.tgz"
    with gzip.open(flood, "wb", 6) as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        entry = tarfile.TarInfo("zeros")
        entry.size = 100 << 20
        archive.addfile(entry, open("/dev/zero", "rb"))  # noqa: SIM115
    with pytest.raises(ArchiveError, match="over 100 times its size"):
        unpack(flood, target / "flood")


@pytest.mark.parametrize(("make", "suffix"), [(make_tar, ".tar.gz"), (make_zip, ".zip")])
def test_kept_members_are_written_without_the_first_folder(tmp_path, target, make, suffix):
    members = ("CoLA/train.tsv", "CoLA/original/train.tsv", "__MACOSX/._train.tsv", "CoLA/x.txt")
    archive = make(tmp_path / f"x{suffix}", *members, "train/pos/1.txt")
    written = unpack(archive, target, ("*.tsv", "train/*/*.txt"))
    assert set(written) == {target / "train.tsv", target / "train/pos/1.txt"}
    assert len(everything(target)) == 2
    assert (target / "train.tsv").read_bytes() == CONTENT
    assert (target / "train.tsv").stat().st_mode & 0o7111 == 0
    with pytest.raises(ArchiveError, match=r"holds nothing that matches \*.csv"):
        unpack(archive, target, ("*.csv",))


def test_modes_of_the_archive_are_not_taken_over(tmp_path, target):
    [file] = unpack(make_tar(tmp_path / "x.tgz", ("run.tsv", {"mode": 0o6777, "uid": 1})), target)
    assert file.stat().st_mode & 0o7133 == 0
