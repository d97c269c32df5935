"""Downloads of one file from a faulty server: the file arrives complete or not at all."""

import contextlib
import gzip
import shutil
from typing import ClassVar

import pytest

import faulty_server
from funnel.utils.errors import FunnelError
from funnel_data.downloads.fetch import DownloadConfig, fetch_file, mirror_address
from funnel_data.downloads.transport import Request, open_address

PATH = "/data/a.json"
CONTENT = b'{"a": "' + b"0123456789" * 40_000 + b'"}'


class Silent:
    def __init__(self):
        self.notes = []

    def update(self, name, done, total):
        assert 0 < done <= (total or done), name

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def site():
    with faulty_server.serve(faulty_server.Site({PATH: CONTENT})) as running:
        yield running


@pytest.fixture
def config():
    return DownloadConfig(attempts=3, stall_seconds=0.4, first_pause=0.01)


def fetch(site, config, target, path=PATH):
    return fetch_file(site.address + path, target, config, Silent())


# For each fault, whether each of the first requests asks for the rest of the file only.
RECOVERED = {
    "": [False],
    "cut": [False, True],
    "cut, cut": [False, True, True],
    "stall": [False, True],
    "drip": [False, True],
    "503, 429": [False, False],
    "redirect /data/a.json": [False, False],
    "cut, no range": [False, True],
    "cut, wrong range": [False, True],
    "no validator": [False, False],
    "length too large": [False],
    "no length": [False],
}


@pytest.mark.parametrize("faults", RECOVERED)
def test_the_file_arrives(site, config, tmp_path, faults):
    site.faults[PATH] = [fault for fault in faults.split(", ") if fault]
    target = tmp_path / "a.json"
    fetch(site, config, target)
    assert target.read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    asked = [asked is not None for asked in site.ranges(PATH)]
    assert asked[: len(RECOVERED[faults])] == RECOVERED[faults]


def test_resuming_asks_for_the_exact_rest(site, config, tmp_path):
    site.faults[PATH] = ["cut", "cut"]
    fetch(site, config, tmp_path / "a.json")
    half, quarter = len(CONTENT) // 2, (len(CONTENT) - len(CONTENT) // 2) // 2
    assert site.ranges(PATH) == [None, f"bytes={half}-", f"bytes={half + quarter}-"]


REFUSED = {
    "404": ("the server answers 404", 1),
    "403": ("the server answers 403", 1),
    "500": ("given up after 3 attempts: the server answers 500", 3),
    "page": ("text/html instead of the file|a web page", 1),
    "page as data": ("sends a web page instead of the file", 1),
    "stall": ("given up after 3 attempts", 3),
    "length too large": ("given up after 3 attempts", 3),
    "redirect /data/a.json": ("the server answers 302", None),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_the_file_does_not_arrive(site, config, tmp_path, fault):
    site.always[PATH] = fault
    message, requests = REFUSED[fault]
    with pytest.raises(FunnelError, match=message) as caught:
        fetch(site, config, tmp_path / "a.json")
    assert site.address + PATH in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "a.json").exists()
    assert requests is None or len(site.seen) == requests


def test_files_of_another_type_are_refused(site, config, tmp_path):
    site.files |= {"/a.zip": CONTENT, "/b.tgz": gzip.compress(CONTENT), "/empty.json": b""}
    for path, fault, message in (
        ("/a.zip", "", "not those of a .zip file"),
        ("/b.tgz", "json type", "sends application/json instead"),
        ("/empty.json", "", "is empty"),
    ):
        site.always[path] = fault
        with pytest.raises(FunnelError, match=message):
            fetch(site, config, tmp_path / "x", path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_changes_meanwhile_is_not_a_mixture(site, config, tmp_path):
    site.faults[PATH] = ["cut", "404"]
    target, other = tmp_path / "a.json", b'{"b": "' + b"abcdefghij" * 40_000 + b'"}'
    with pytest.raises(FunnelError):
        fetch(site, config, target)
    assert (tmp_path / "a.json.part").stat().st_size == len(CONTENT) // 2
    site.files[PATH] = other
    assert fetch(site, config, target)
    assert target.read_bytes() == other


def test_a_partial_file_with_a_corrupt_record_is_discarded(site, config, tmp_path):
    (tmp_path / "a.json.part").write_bytes(b"x" * 100)
    (tmp_path / "a.json.part.json").write_text("{")
    fetch(site, config, tmp_path / "a.json")
    assert (tmp_path / "a.json").read_bytes() == CONTENT
    assert site.ranges(PATH) == [None]


def test_no_server(config, tmp_path):
    with pytest.raises(FunnelError, match="given up after 3 attempts"):
        fetch_file("http://127.0.0.1:9/a.json", tmp_path / "a.json", config, Silent())


def test_full_disk_is_noticed_before_anything_is_written(site, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 9))
    with pytest.raises(FunnelError, match="are missing, 0.0 GB are free"):
        fetch(site, DownloadConfig(), tmp_path / "a.json")


def test_mirrors(tmp_path):
    url = "https://host.org/deep/a%20b.zip?raw=1"
    assert mirror_address(url, None) == mirror_address(url, "") == url
    assert mirror_address(url, "http://m/x/") == "http://m/x/host.org/deep/a%20b.zip"
    deep, flat = tmp_path / "host.org/deep/a b.zip", tmp_path / "a b.zip"
    assert mirror_address(url, str(tmp_path)) == str(deep)
    flat.touch()
    assert (
        mirror_address(url, str(tmp_path)) == mirror_address(url, f"file://{tmp_path}") == str(flat)
    )
    deep.parent.mkdir(parents=True)
    deep.touch()
    assert mirror_address(url, str(tmp_path)) == str(deep)


def test_a_proxy_from_the_environment(site, config, tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request._opener", None)  # it reads the proxies once
    monkeypatch.setenv("http_proxy", site.address)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    url = "http://publisher.invalid/a.json"
    site.files[url] = CONTENT
    fetch_file(url, tmp_path / "a.json", config, Silent())
    assert (tmp_path / "a.json").read_bytes() == CONTENT


def test_a_local_mirror_is_copied_from_where_it_stopped(config, tmp_path):
    source, target = tmp_path / "mirror.json", tmp_path / "a.json"
    source.write_bytes(CONTENT)
    with contextlib.closing(open_address(Request(str(source)))) as response:
        etag = response.headers["etag"]
    with contextlib.closing(open_address(Request(str(source), 100, etag))) as response:
        assert response.status == 206
        assert response.headers["content-range"] == f"bytes 100-{len(CONTENT) - 1}/{len(CONTENT)}"
        assert response.read() == CONTENT[100 : 100 + (1 << 18)]
    with contextlib.closing(open_address(Request(str(source), 100, '"another"'))) as response:
        assert response.status == 200
    fetch_file(str(source), target, config, Silent())
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("number", ["9" * 6000, "\u00b2", "-1", ""])
def test_numbers_in_headers_that_are_none(monkeypatch, config, tmp_path, number):
    """Of a size the server does not state, and of a pause it does not ask for."""
    pieces, asked = [CONTENT, b""], []

    class Answer:
        status = 503
        headers: ClassVar = {"content-length": number, "retry-after": number}

        def read(self):
            return pieces.pop(0)

        def close(self):
            asked.append(1)
            Answer.status = 200

    monkeypatch.setattr("funnel_data.downloads.fetch.open_address", lambda _: Answer())
    assert not fetch_file("http://host/a.json", tmp_path / "a.json", config, Silent())
    assert (tmp_path / "a.json").read_bytes() == CONTENT and len(asked) == 2
