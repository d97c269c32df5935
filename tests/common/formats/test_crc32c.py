"""CRC-32C against published values."""

import numpy as np
import pytest

from funnel.formats import crc32c as crc

# RFC 3720, appendix B.4, and the usual check value.
KNOWN = {
    b"123456789": 0xE3069283,
    bytes(32): 0x8A9136AA,
    b"\xff" * 32: 0x62A8AB43,
    bytes(range(32)): 0x46DD794E,
    b"": 0,
}


@pytest.mark.parametrize("data", KNOWN)
def test_published_values(data):
    assert crc.crc32c(data) == KNOWN[data]


def test_checksums_continue_and_take_any_contiguous_buffer():
    data = np.random.default_rng(0).integers(0, 256, 3_000_001, np.uint8)
    assert crc.crc32c(data[1000:], crc.crc32c(data[:1000])) == crc.crc32c(data)
    assert crc.crc32c(data.tobytes()) == crc.crc32c(data)
    assert crc.crc32c(data[:3_000_000].view("<f4").reshape(3, -1)) == crc.crc32c(data[:3_000_000])


def test_mask_is_the_one_of_tfrecord():
    # The length field of every one-byte TFRecord: 01 00 … and this.
    length = (1).to_bytes(8, "little")
    assert crc.masked_crc32c(length) == crc.mask(crc.crc32c(length))
    assert crc.mask(0) == 0xA282EAD8
    assert crc.mask(0xFFFFFFFF) == 0xA282EAD7
