"""Text files as people have them: compressed, of any line ends, in odd encodings; and bombs."""

import bz2
import gzip
import lzma
import random
import tracemalloc

import pytest

from funnel.utils.compressed import SequentialReader
from funnel.utils.errors import ConfigError, DataError
from funnel.utils.json_files import read_json
from funnel.utils.text_files import find_file, list_texts, read_lines, read_text

PACKERS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
MEGABYTE = 1 << 20


def texts(path):
    lines = list(read_lines(path))
    assert [line.number for line in lines] == list(range(1, len(lines) + 1))
    assert not any(line.problem for line in lines)
    return [line.text for line in lines]


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last_end", [True, False])
def test_line_ends_and_compression(tmp_path, packer, named, end, last_end):
    lines = ["ä\u2028b", "", " \u3000", "c\x0bd", "e"]
    content = end.join([*lines, ""] if last_end else lines)
    path = tmp_path / f"a.txt{packer if named else ''}"
    for mark in ("", "\ufeff"):
        path.write_bytes(PACKERS[packer]((mark + content).encode()))
        assert texts(path) == lines
        assert read_text(path) == content


def test_long_files_are_split_at_the_same_places(tmp_path):
    rng, path = random.Random(0), tmp_path / "a"
    lines = ["x" * rng.choice([0, 1, 50, 100_000, 700_000]) for _ in range(60)]
    for end in ("\n", "\r\n", "\r"):
        path.write_text(end.join(lines) + end, newline="")
        assert texts(path) == lines


def test_a_carriage_return_within_lines_is_text(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"a\rb\nc\r\n")
    assert texts(path) == ["a\rb", "c"]
    path.write_bytes(b"alone\r")
    assert texts(path) == ["alone"]
    path.write_bytes(b"")
    assert texts(path) == []


def test_odd_encodings_name_file_and_line(tmp_path):
    path = tmp_path / "a"
    path.write_bytes("one\ncafé\n".encode("latin-1"))
    assert list(read_lines(path))[1] == (2, "caf\ufffd", "not UTF-8 at byte 4 of the line")
    with pytest.raises(
        DataError, match="a: not UTF-8 at byte 4 of line 2; save it as UTF-8.*iconv"
    ):
        read_text(path)
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"):
        path.write_bytes("some text\nof two lines\n".encode(encoding))
        for read in (texts, read_text):
            with pytest.raises(DataError, match="a:1: is UTF-16 or UTF-32; save it as UTF-8"):
                read(path)


@pytest.mark.parametrize("packer", [".gz", ".bz2", ".xz"])
def test_corrupt_and_truncated_compression(tmp_path, packer):
    rng = random.Random(1)
    content = "".join(f"{rng.random()}\n" for _ in range(2000))
    good = PACKERS[packer](content.encode())
    path = tmp_path / f"a{packer}"
    for number in range(60):
        raw = bytearray(good)
        if number % 2:
            del raw[rng.randrange(1, len(raw)) :]
        else:
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        path.write_bytes(raw)
        for read in (lambda: "".join(f"{t}\n" for t in texts(path)), lambda: read_text(path)):
            try:
                assert read() == content  # some bits of the header have no meaning
            except DataError as error:
                assert str(error).startswith(f"{path}: corrupt file: ") and "\n" not in str(error)
    path.write_bytes(b"plain text")
    with pytest.raises(ConfigError, match="corrupt file"):
        read_json(path, ConfigError)


def _bomb(path, packer, megabytes):
    opener = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}[packer]
    with opener(path, "wb") as stream:
        for _ in range(megabytes):
            stream.write(b"\n" + bytes(MEGABYTE - 1))


@pytest.mark.slow
@pytest.mark.parametrize("packer", [".bz2", ".xz"])
def test_bombs_end_in_bounded_memory(tmp_path, packer):
    path = tmp_path / f"a{packer}"
    _bomb(path, packer, 100)
    tracemalloc.start()
    with (
        pytest.raises(DataError, match="unpacks to over 1000 times its size"),
        SequentialReader(path, 1000) as stream,
    ):
        while stream.read(MEGABYTE):
            continue
    assert tracemalloc.get_traced_memory()[1] < 20 * MEGABYTE
    tracemalloc.stop()
    with pytest.raises(DataError, match="unpacks to over 100 times its size"):
        read_json(path, DataError)


@pytest.mark.slow
def test_a_line_without_end(tmp_path):
    path = tmp_path / "a.gz"
    with gzip.open(path, "wb", 1) as stream:
        stream.write(b"first\n")
        for _ in range(70):
            stream.write(b"x" * MEGABYTE)
    with pytest.raises(DataError, match=r"a\.gz:2: the line has over 64 MiB"):
        list(read_lines(path))


def test_names_of_compressed_files(tmp_path):
    for name in ("b.txt.gz", "a.txt", "c.txt.xz", "d.tsv"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in list_texts(tmp_path)] == ["a.txt", "b.txt.gz", "c.txt.xz"]
    assert find_file(tmp_path, "c.txt") == tmp_path / "c.txt.xz"
    assert find_file(tmp_path, "a.txt") == tmp_path / "a.txt"
    assert find_file(tmp_path, "e") is None


def test_json_numbers_of_too_many_digits(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(f'{{"a": {"9" * 6000}}}')
    with pytest.raises(ConfigError, match=r"a\.json: not valid JSON: .* too many digits"):
        read_json(path)


def test_a_reader_that_could_not_open_its_file_can_be_closed(tmp_path):
    reader = SequentialReader.__new__(SequentialReader)
    with pytest.raises(DataError, match="nothing"):
        reader.__init__(tmp_path / "nothing", 100)
    reader.close()  # as the interpreter does, which from Python 3.13 on prints what is raised
    assert reader.closed
