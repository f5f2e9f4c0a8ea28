"""Pages must come back, and no frame may give more or less than it must."""

from __future__ import annotations

import pytest

from pipecrypt.errors import FormatError
from pipecrypt.formats.compression import EXTENSIONS, Compression, ZstdCodec


@pytest.mark.parametrize("level", [1, 3, 19])
@pytest.mark.parametrize("page", [b"", b"x", b"abc" * 10_000])
def test_pages_come_back(level: int, page: bytes) -> None:
    codec = ZstdCodec(level)
    compressed = codec.compress(memoryview(page))
    assert ZstdCodec().decompress(memoryview(compressed), len(page)) == page


@pytest.mark.parametrize("plain_bytes", [0, 1, 8, 10, 1000])
def test_frames_of_another_length(plain_bytes: int) -> None:
    codec = ZstdCodec()
    with pytest.raises(FormatError):
        codec.decompress(memoryview(codec.compress(memoryview(b"123456789"))), plain_bytes)


@pytest.mark.parametrize("frame", [b"", b"no frame", b"\x28\xb5\x2f\xfd"])
def test_what_is_no_frame(frame: bytes) -> None:
    with pytest.raises(FormatError):
        ZstdCodec().decompress(memoryview(frame), 9)


def test_every_codec_has_an_extension() -> None:
    assert set(EXTENSIONS.values()) == set(Compression) - {Compression.NONE}
