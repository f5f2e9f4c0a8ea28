"""Whole runs with AWS KMS: how many calls they make, as the server counted them, and what they do when it fails."""

from __future__ import annotations

import base64
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipecrypt.cli.main import main
from pipecrypt.errors import IntegrityError, KeyServiceError, NotTrustedError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.schemes.aws_kms import SERVICE
from pipecrypt.keys.schemes.caller import Patience
from pipecrypt.reading.in_flight import _SESSIONS, decrypt_bytes, encrypt_bytes
from pipecrypt.runs.files import decrypt, encrypt
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.verifying import verify
from tests.doubles.fake_kms import kms_error
from tests.doubles.http_service import HTTPRequest
from tests.keys import emulators
from tests.keys.aws import AWS, asked_action
from tests.keys.contract.world_aws import MinistackWorld, MotoWorld
from tests.keys.contract.worlds import Servers
from tests.keys.patience import fake_patience
from tests.keys.public_halves import read_public_keys

BATCHES = 10_000
TABLE = pa.table({"id": range(100), "email": [f"{row}@example.org" for row in range(100)], "name": ["x"] * 100})


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    servers.stop()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    for number in range(4):
        pq.write_table(TABLE, tmp_path / "raw" / f"{number}.parquet", row_group_size=25)
    return tmp_path / "raw"


@pytest.fixture
def nobody_waits(monkeypatch: pytest.MonkeyPatch) -> Patience:
    patience = fake_patience()
    monkeypatch.setattr(SERVICE, "_patience", patience)
    monkeypatch.setattr(SERVICE, "_rates", {})
    return patience


def _published(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("batches", [1_000, pytest.param(BATCHES, marks=pytest.mark.long)])
def test_any_number_of_batches_takes_one_call_each_way(aws: AWS, tmp_path: Path, batches: int) -> None:
    table = pa.table({"a": range(batches)})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=1)
    reference = aws.new_key()
    written = encrypt(tmp_path / "in.parquet", tmp_path / "out.parquet", Policy(default=reference))
    assert aws.server.calls == {"GenerateDataKey": 1}
    assert written.service_calls == 1
    assert pq.ParquetFile(tmp_path / "in.parquet").num_row_groups == batches
    read = decrypt(tmp_path / "out.parquet", tmp_path / "back.parquet", keys=[reference])
    assert aws.server.calls == {"GenerateDataKey": 1, "Decrypt": 1}
    assert read.service_calls == 1
    assert pq.read_table(tmp_path / "back.parquet").equals(table)


@pytest.mark.parametrize("world", [MotoWorld, MinistackWorld])
def test_emulators_count_the_same(
    world: type[MotoWorld | MinistackWorld], servers: Servers, raw: Path, tmp_path: Path
) -> None:
    made = world(servers, tmp_path)
    with made.stack:
        encrypt(raw, tmp_path / "out", Policy(default=made.reference))
        assert made.calls() == 1
        decrypt(tmp_path / "out", tmp_path / "back", keys=[made.reference])
        assert made.calls() == 2
    assert all(pq.read_table(tmp_path / "back" / name).equals(TABLE) for name in _published(raw))


def test_two_worker_processes_make_two_calls_for_each_master_key(aws: AWS, raw: Path, tmp_path: Path) -> None:
    pii, ops = aws.new_key(), aws.new_key()
    policy = Policy(columns={"email": pii, "name": ops})
    aws.server.hold()
    # The first call waits for the second, which the other worker makes: else one could do all the work.
    aws.server.trouble = lambda request: aws.server.release() if aws.server.calls.total() > 1 else None
    written = encrypt(raw, tmp_path / "out", policy, workers=2)
    assert aws.server.calls == {"GenerateDataKey": 4}
    assert written.service_calls == 4
    decrypt(tmp_path / "out", tmp_path / "back", keys=[pii, ops])
    assert aws.server.calls == {"GenerateDataKey": 4, "Decrypt": 4}
    assert all(pq.read_table(tmp_path / "back" / name).equals(TABLE) for name in _published(raw))


@pytest.mark.long
def test_ten_thousand_batches_in_two_processes_take_two_calls_each_way_for_each_master_key(
    aws: AWS, tmp_path: Path
) -> None:
    half = pa.table({"id": range(BATCHES // 2), "email": ["x"] * (BATCHES // 2)})
    (tmp_path / "in").mkdir()
    for number in range(2):
        pq.write_table(half, tmp_path / "in" / f"{number}.parquet", row_group_size=1)
    keys = {"id": aws.new_key(), "email": aws.new_key()}
    asked: Counter[tuple[str, str]] = Counter()

    def count(request: HTTPRequest) -> None:
        asked[asked_action(request), json.loads(request.body)["KeyId"]] += 1
        # The first call of writing waits for the second, which the other worker makes: each encrypts one file.
        if aws.server.calls.total() > 1:
            aws.server.release()

    aws.server.trouble = count
    aws.server.hold()
    written = encrypt(tmp_path / "in", tmp_path / "out", Policy(columns=keys), workers=2)
    names = [reference.removeprefix("aws-kms://").partition("?")[0] for reference in keys.values()]
    assert asked == {("GenerateDataKey", name): 2 for name in names}
    assert aws.server.calls == {"GenerateDataKey": 4}
    asked.clear()
    read = decrypt(tmp_path / "out", tmp_path / "back", keys=list(keys.values()), workers=2)
    assert asked == {("Decrypt", name): 2 for name in names}
    assert aws.server.calls == {"GenerateDataKey": 4, "Decrypt": 4}
    assert (written.service_calls, read.service_calls) == (4, 4)
    for name in _published(tmp_path / "in"):
        assert pq.ParquetFile(tmp_path / "in" / name).num_row_groups == BATCHES // 2
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "in" / name).read_bytes()


@pytest.mark.usefixtures("nobody_waits")
def test_a_run_that_is_throttled_half_the_time_finishes(aws: AWS, raw: Path, tmp_path: Path) -> None:
    chance = random.Random(3)  # noqa: S311 - tests repeat
    refused = []

    def throttle(request: HTTPRequest) -> object:
        refused.append(chance.random() < 0.5)
        return kms_error("ThrottlingException", "slow down") if refused[-1] else None

    aws.server.trouble = throttle  # type: ignore[assignment]
    keys = [aws.new_key() for _ in range(8)]
    for number, key in enumerate(keys):
        encrypt(raw, tmp_path / f"out{number}", Policy(default=key))
        decrypt(tmp_path / f"out{number}", tmp_path / f"back{number}", keys=[key])
        assert _published(tmp_path / f"back{number}") == _published(raw)
    assert aws.server.calls.total() == 16 + sum(refused)
    assert sum(refused) >= 8


@pytest.mark.usefixtures("nobody_waits")
@pytest.mark.parametrize(
    "end",
    [lambda aws: aws.server.stop(), lambda aws: aws.fail("KMSInternalException", status=500),
     lambda aws: aws.fail("AccessDeniedException", "User: nobody")],
    ids=["gone", "broken", "denied"],
)  # fmt: skip
def test_a_service_that_dies_ends_the_run(
    aws: AWS, raw: Path, tmp_path: Path, end: Callable[[AWS], None], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = aws.new_key(), aws.new_key()

    def die_after_the_first(request: HTTPRequest) -> None:
        if aws.server.calls.total() > 1:
            raise ConnectionAbortedError

    aws.server.trouble = die_after_the_first
    with pytest.raises(KeyServiceError) as caught:
        encrypt(raw, tmp_path / "out", Policy(columns={"email": first, "name": second}))
    assert caught.value.exit_code == 4
    assert second in str(caught.value)
    assert not (tmp_path / "out").exists() or _published(tmp_path / "out") == []

    end(aws)
    assert main(["encrypt", str(raw), str(tmp_path / "out"), "--key", first]) == 4
    assert first in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or _published(tmp_path / "out") == []


def test_a_service_that_dies_after_the_keks_were_made_is_not_missed(aws: AWS, raw: Path, tmp_path: Path) -> None:
    key = aws.new_key()

    def end(event: object) -> None:
        if aws.server.calls["GenerateDataKey"] and aws.server.trouble is None:
            aws.fail("KMSInternalException", status=500)

    encrypt(raw, tmp_path / "out", Policy(default=key), on_event=end)
    assert aws.server.trouble is not None
    assert _published(tmp_path / "out") == _published(raw)
    assert aws.server.calls == {"GenerateDataKey": 1}


@pytest.mark.parametrize("spec", ["ECC_NIST_P256", "ECC_NIST_P384", "RSA_2048"])
def test_a_dataset_signed_in_aws_is_verified_offline(aws: AWS, raw: Path, tmp_path: Path, spec: str) -> None:
    key, signing = aws.new_key(), aws.new_key(spec=spec)
    encrypt(raw, tmp_path / "out", Policy(default=key, sign=signing))
    assert aws.server.calls["Sign"] == 1
    public = tmp_path / "public.pem"
    public.write_text(read_public_keys(signing, credentials=Credentials({}))[0].pem)
    aws.server.calls.clear()
    verify(tmp_path / "out", trust=[str(public)])
    assert aws.server.calls == {}
    decrypt(tmp_path / "out", tmp_path / "back", keys=[key], trust=[str(public)])
    assert aws.server.calls == {"Decrypt": 1}
    other = tmp_path / "other.pem"
    other.write_text(read_public_keys(aws.new_key(spec=spec), credentials=Credentials({}))[0].pem)
    with pytest.raises(NotTrustedError):
        verify(tmp_path / "out", trust=[str(other)])


@pytest.mark.usefixtures("nobody_waits")
def test_a_signing_key_that_fails_publishes_no_statement(aws: AWS, raw: Path, tmp_path: Path) -> None:
    key, signing = aws.new_key(), aws.new_key(spec="ECC_NIST_P256")
    aws.fail("KMSInternalException", status=500, action="Sign")
    with pytest.raises(KeyServiceError):
        encrypt(raw, tmp_path / "out", Policy(default=key, sign=signing))
    assert not (tmp_path / "out" / "_pipecrypt" / "manifest.json").exists()


def test_a_file_of_another_account_causes_no_call(aws: AWS, raw: Path, tmp_path: Path) -> None:
    theirs, ours = aws.new_key(), aws.new_key()
    encrypt(raw / "0.parquet", tmp_path / "out.parquet", Policy(default=theirs))
    aws.server.calls.clear()
    assert main(["decrypt", str(tmp_path / "out.parquet"), str(tmp_path / "back.parquet"), "--key", ours]) == 4
    assert aws.server.calls == {}


def test_a_reader_with_some_of_the_keys_is_told_which_is_missing(
    aws: AWS, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pii, ops = aws.new_key(), aws.new_key()
    encrypt(raw / "0.parquet", tmp_path / "out.parquet", Policy(columns={"email": pii, "name": ops}))
    assert main(["decrypt", str(tmp_path / "out.parquet"), str(tmp_path / "back.parquet"), "--key", ops]) == 4
    assert pii.removeprefix("aws-kms://").partition("?")[0] in capsys.readouterr().err


def test_no_secret_of_the_environment_is_shown(
    aws: AWS, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aws.fail("InvalidSignatureException", f"x-amz-security-token:{emulators.SESSION_TOKEN}")
    arguments = ["--log-level", "debug", "encrypt", str(raw), str(tmp_path / "out"), "--key", aws.new_key()]
    assert main(arguments) == 4
    shown = capsys.readouterr()
    for secret in (emulators.SESSION_TOKEN, emulators.SECRET_ACCESS_KEY):
        assert secret not in shown.err + shown.out


@pytest.mark.parametrize("count", [200, pytest.param(1_000, marks=pytest.mark.long)])
def test_forged_messages_deny_a_consumer_nothing_and_cost_a_bounded_number_of_calls(aws: AWS, count: int) -> None:
    table, key = pa.table({"email": ["a@example.org"]}), aws.new_key()
    honest = encrypt_bytes(table, Policy(default=key, footer="plaintext"))
    found = re.search(rb'"wrappedKEK": ?"pc1\.[0-9a-f]{32}\.([A-Za-z0-9+/=]+)"', honest)
    assert found is not None
    wrapped = found[1]
    for number in range(count):
        digits = base64.b64encode(number.to_bytes(6, "big"))
        forged = honest.replace(wrapped, wrapped[:40] + digits + wrapped[40 + len(digits) :])
        with pytest.raises((IntegrityError, KeyServiceError)):
            decrypt_bytes(forged, [key])
    assert aws.server.calls["Decrypt"] <= count
    assert decrypt_bytes(honest, [key]).num_rows == 1
    _SESSIONS.forget()
