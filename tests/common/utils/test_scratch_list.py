"""Lists on disk: what was added is read, by several threads, and a full disk is one line."""

import errno
from concurrent.futures import ThreadPoolExecutor

import pytest

from funnel.utils import scratch_list
from funnel.utils.errors import FunnelError
from funnel.utils.scratch_list import ScratchList


@pytest.mark.parametrize("held", [1 << 18, 64])
def test_values_are_read_as_they_were_added(monkeypatch, held):
    monkeypatch.setattr(scratch_list, "_HELD_BYTES", held)
    values = [{"text": "ä\ud800" * index, "n": [index, None, index / 7]} for index in range(50)]
    texts: ScratchList[dict] = ScratchList()
    for count, value in enumerate(values):
        assert len(texts) == count
        texts.append(value)
        assert texts[0] == values[0]  # reading between two additions moves nothing
    assert list(texts) == values and texts[-1] == values[-1] and texts[3:9:2] == values[3:9:2]
    with pytest.raises(IndexError):
        texts[50]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(texts.__getitem__, [*range(50)] * 20)) == values * 20


def test_a_full_disk_is_named(monkeypatch):
    texts: ScratchList[str] = ScratchList()

    def full(data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(texts._file, "write", full)
    with pytest.raises(FunnelError, match="cannot be written: No space left on device"):
        texts.append("a")
    assert len(texts) == 0
