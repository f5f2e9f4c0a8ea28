import pytest

from pipecrypt.keys.schemes.gcp_kms import crc32c


# The examples of RFC 3720 B.4, and the check value that every description of CRC-32C gives.
@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"", 0x00000000),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_known_answers(data: bytes, checksum: int) -> None:
    assert crc32c(data) == crc32c(bytearray(data)) == checksum
