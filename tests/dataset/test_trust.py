"""What a reader says about signatures: options, the environment, and the one warning where there is nothing."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import pytest

from pipecrypt.dataset.requirements import NO_CHECKS, checks_of, requirements_of, warn_unchecked
from pipecrypt.dataset.trust import TRUST_VARIABLE, Trust, VerifyMode
from pipecrypt.errors import AccessError, KeyReferenceError, UncheckedWarning, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.vocabulary import once
from tests.dataset.world import ALICE, BOB


@pytest.fixture
def pem_file(tmp_path: Path) -> str:
    path = tmp_path / "alice.pub"
    path.write_text(ALICE.public_key_pem)
    return str(path)


def test_what_the_caller_names_comes_first(pem_file: str) -> None:
    environ = {TRUST_VARIABLE: "nowhere.pub"}
    checks = checks_of(Trust([pem_file, BOB.public_key_pem], threshold=2, min_version=3), environ, Credentials({}))
    assert checks.requirements is not None
    assert checks.requirements.trust.key_ids == (ALICE.key_id, BOB.key_id)
    assert (checks.requirements.trust.threshold, checks.requirements.min_version) == (2, 3)
    assert checks.mode is VerifyMode.READ
    assert not checks.warns
    assert pickle.loads(pickle.dumps(checks)).requirements.trust == checks.requirements.trust  # noqa: S301  # made here


def test_the_environment_stands_in(pem_file: str) -> None:
    for text in (pem_file, f"  {pem_file}\n\t{pem_file} "):
        checks = checks_of(Trust(verify="full"), {TRUST_VARIABLE: text}, Credentials({}))
        assert checks.requirements is not None
        assert checks.mode is VerifyMode.FULL
    for environ in ({}, {TRUST_VARIABLE: ""}, {TRUST_VARIABLE: " \n"}):
        assert checks_of(Trust(), environ, Credentials({})) == NO_CHECKS
    with pytest.raises(UsageError):
        checks_of(Trust(), {TRUST_VARIABLE: "nowhere.pub"}, Credentials({}))


def test_versions_are_remembered_where_the_environment_says(pem_file: str, tmp_path: Path) -> None:
    checks = checks_of(Trust([pem_file]), {"PIPECRYPT_STATE_DIR": str(tmp_path)}, Credentials({}))
    assert checks.requirements is not None
    assert checks.requirements.memory is not None
    assert checks.requirements.memory.directory == str(tmp_path)


def test_an_id_is_read_in_either_case() -> None:
    assert Trust(dataset_id="AB" * 16).dataset_id == "ab" * 16


def test_requirements_need_a_key() -> None:
    with pytest.raises(UsageError):
        requirements_of(Trust(), None, Credentials({}))


def test_off_reads_no_key() -> None:
    checks = checks_of(Trust(["nowhere.pub"], verify="off"), {TRUST_VARIABLE: "nowhere.pub"}, Credentials({}))
    assert (checks.requirements, checks.warns) == (None, False)
    assert NO_CHECKS.warns


@pytest.mark.parametrize(
    "options", [{"verify": "full"}, {"threshold": 2}, {"min_version": 2}, {"dataset_id": "0" * 32, "verify": "off"}]
)
def test_demands_need_a_trusted_key(options: dict[str, object], pem_file: str) -> None:
    asked = Trust(**options)  # type: ignore[arg-type]
    for environ in ({}, {TRUST_VARIABLE: " "}):
        with pytest.raises(UsageError, match="no key is trusted"):
            asked.completed(environ)
    assert asked.completed({TRUST_VARIABLE: pem_file}).keys == (pem_file,)


@pytest.mark.parametrize(
    "options",
    [
        {"keys": []},
        {"keys": "alice.pub"},
        {"keys": b"alice.pub"},
        {"keys": 7},
        {"keys": [b"alice.pub"]},
        {"verify": "maybe"},
        {"threshold": 0},
        {"threshold": True},
        {"min_version": "1"},
        {"dataset_id": b"x"},
        {"dataset_id": "0" * 31},
        {"dataset_id": "g" * 32},
    ],
)
def test_malformed_options(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Trust(**options)  # type: ignore[arg-type]


def test_keys_that_are_none(tmp_path: Path, pem_file: str) -> None:
    for text, error in (
        (str(tmp_path / "none"), UsageError),
        ("keystore://", KeyReferenceError),
        (f"keystore://{tmp_path}/keys.json#none", AccessError),
    ):
        with pytest.raises(error):
            checks_of(Trust([text]), {}, Credentials({}))
    with pytest.raises(UsageError):
        checks_of(Trust([pem_file], threshold=2), {}, Credentials({}))


# ---- the warning ----


@pytest.fixture
def _unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "_said", set())


@pytest.mark.usefixtures("_unsaid")
def test_it_is_said_once() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            warn_unchecked()
    assert [each.category for each in caught] == [UncheckedWarning]


@pytest.mark.usefixtures("_unsaid")
def test_as_an_error_it_is_raised_every_time() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UncheckedWarning)
        for _ in range(2):
            with pytest.raises(UncheckedWarning):
                warn_unchecked()
