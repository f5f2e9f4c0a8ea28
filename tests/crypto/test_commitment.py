import hmac

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from pipecrypt.crypto.mac import COMMITMENT_BYTES, check_commitment, commit
from pipecrypt.errors import IntegrityError
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.secret import DataKey

KEY = DataKey(bytes(range(32)))
PLACE = Context("0" * 32, "a.parquet", ("email",), 3)


def test_is_hkdf_expand_as_the_docstring_says() -> None:
    info = b"pipecrypt data key commitment v1" + PLACE.key_binding()
    assert commit(KEY, PLACE.key_binding()) == HKDFExpand(SHA256(), 32, info).derive(bytes(range(32)))


def test_known_answer_stays() -> None:
    assert (
        commit(KEY, b"x").hex()
        == hmac.digest(bytes(range(32)), b"pipecrypt data key commitment v1x\x01", "sha256").hex()
    )
    assert len(commit(KEY, b"x")) == COMMITMENT_BYTES


def test_accepts_its_own() -> None:
    check_commitment(KEY, PLACE.key_binding(), commit(KEY, PLACE.key_binding()))


@pytest.mark.parametrize(
    "other",
    [
        Context("1" * 32, "a.parquet", ("email",), 3),
        Context("0" * 32, "b.parquet", ("email",), 3),
        Context("0" * 32, "a.parquet", ("emails",), 3),
        Context("0" * 32, "a.parquet", ("em", "ail"), 3),
        Context("0" * 32, "a.parquet", ("email",), 4),
        Context("0" * 32, "a.parquet", ("email",), None),
        Context("0" * 32, "a.parquet", None, 3),
    ],
)
def test_refuses_another_place(other: Context) -> None:
    with pytest.raises(IntegrityError):
        check_commitment(KEY, other.key_binding(), commit(KEY, PLACE.key_binding()))


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=40))
def test_refuses_another_key_or_garbage(key_bytes: bytes, garbage: bytes) -> None:
    commitment = commit(KEY, b"x")
    if key_bytes != bytes(range(32)):
        with pytest.raises(IntegrityError):
            check_commitment(DataKey(key_bytes), b"x", commitment)
    if garbage != commitment:
        with pytest.raises(IntegrityError):
            check_commitment(KEY, b"x", garbage)


def test_short_keys_have_no_commitment() -> None:
    with pytest.raises(IntegrityError):
        check_commitment(DataKey(bytes(16)), b"x", bytes(32))
