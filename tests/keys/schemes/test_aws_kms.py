import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import boto3
import pytest

from pipecrypt.errors import (
    KeyNotFoundError,
    KeyReferenceError,
    KeyServiceError,
    MissingExtraError,
    UsageError,
)
from pipecrypt.keys.schemes.aws_kms import SERVICE, AWSKMSService, AWSMasterKey
from pipecrypt.vocabulary.context import Context, new_dataset_id
from tests.doubles.http_service import HTTPRequest
from tests.keys import emulators
from tests.keys.aws import AWS, FAR_REGION, REGION
from tests.keys.contract.worlds import Servers
from tests.keys.patience import FakeClock, fake_patience

DATASET = new_dataset_id()
HERE = Context(DATASET, "")
PLACE = Context(DATASET, "a.parquet", ("email",), 0)


def _arn(master_key: object) -> str:
    assert isinstance(master_key, AWSMasterKey)
    return master_key.id


def test_an_alias_is_looked_up_once_and_never_stored(aws: AWS) -> None:
    arn, other = (aws.kms.add_key(REGION, alias=alias) for alias in ("pii", "ops"))
    for name in ("alias/pii", arn.rpartition("/")[2], f"arn:aws:kms:{REGION}:111122223333:alias/pii"):
        aws.server.calls.clear()
        master_key = aws.open(aws.reference(name, region=REGION))
        assert _arn(master_key) == arn
        _, wrapped = master_key.generate_key(HERE)
        # Who moves the alias decides about new sessions only.
        aws.kms.aliases["alias/pii"] = other.rpartition("/")[2]
        master_key.unwrap_key(wrapped, HERE)
        aws.kms.aliases["alias/pii"] = arn.rpartition("/")[2]
        assert aws.server.calls == {"DescribeKey": 1, "GenerateDataKey": 1, "Decrypt": 1}


def test_an_arn_is_taken_at_its_word(aws: AWS) -> None:
    master_key = aws.open(aws.new_key())
    assert aws.server.calls == {}
    master_key.generate_key(HERE)
    assert aws.server.calls == {"GenerateDataKey": 1}


def test_what_is_bound(aws: AWS) -> None:
    asked: list[dict[str, object]] = []
    aws.server.trouble = lambda request: asked.append(json.loads(request.body))
    master_key = aws.open(aws.new_key())
    for context in (HERE, Context("", "")):
        _, wrapped = master_key.generate_key(context)
        master_key.unwrap_key(wrapped, context)
    bound = {"pipecrypt-dataset": DATASET, "pipecrypt-purpose": "kek/1"}
    outside = {"pipecrypt-purpose": "kek/1"}
    assert [each["EncryptionContext"] for each in asked] == [bound, bound, outside, outside]
    assert {each["KeyId"] for each in asked} == {master_key.id}
    assert asked[0]["KeySpec"] == "AES_256"


def test_keys_for_something_else(aws: AWS) -> None:
    for spec in ("ECC_NIST_P256", "RSA_2048"):
        reference = aws.new_key(spec=spec, alias="signing")
        with pytest.raises(UsageError):
            aws.open(aws.reference("alias/signing", region=REGION))
        with pytest.raises(UsageError):
            aws.open(reference).generate_key(HERE)


@pytest.mark.parametrize("state", ["Disabled", "PendingDeletion", "PendingImport", "Unavailable"])
def test_states(aws: AWS, state: str) -> None:
    arn = aws.kms.add_key(REGION, alias="pii")
    master_key = aws.open(aws.reference(arn))
    _, wrapped = master_key.generate_key(HERE)
    aws.kms.set_state(arn, state)
    with pytest.raises(KeyServiceError) as caught:
        aws.open(aws.reference("alias/pii", region=REGION))
    assert "aws kms" in caught.value.hint
    for use in (lambda: master_key.generate_key(HERE), lambda: master_key.unwrap_key(wrapped, HERE)):
        with pytest.raises(KeyServiceError) as caught:
            use()
        assert "aws kms" in caught.value.hint


def test_denials_say_who_and_what(aws: AWS) -> None:
    master_key = aws.open(aws.new_key())
    aws.kms.denied.add("GenerateDataKey")
    with pytest.raises(KeyServiceError) as caught:
        master_key.generate_key(HERE)
    assert "nobody is not authorized" in caught.value.message
    assert "kms:GenerateDataKey" in caught.value.hint
    assert aws.server.calls["GenerateDataKey"] == 1


@pytest.mark.parametrize(
    ("code", "status"),
    [("ThrottlingException", 400), ("KMSInternalException", 500), ("DependencyTimeoutException", 500),
     ("KeyUnavailableException", 500), ("ServiceUnavailable", 503), ("Whatever", 502)],
)  # fmt: skip
def test_what_is_asked_again(aws: AWS, code: str, status: int) -> None:
    master_key = aws.open(aws.new_key())
    aws.fail(code, status=status)
    with pytest.raises(KeyServiceError):
        master_key.generate_key(HERE)
    assert aws.server.calls["GenerateDataKey"] > 5


@pytest.mark.parametrize(
    "code",
    ["ExpiredTokenException", "UnrecognizedClientException", "InvalidSignatureException", "ValidationException",
     "LimitExceededException", "DisabledException", "\x1b[2J"],
)  # fmt: skip
def test_what_is_not_asked_again(aws: AWS, code: str) -> None:
    master_key = aws.open(aws.new_key())
    aws.fail(code, f"the canonical string has x-amz-security-token:{emulators.SESSION_TOKEN}")
    with pytest.raises(KeyServiceError) as caught:
        master_key.generate_key(HERE)
    assert aws.server.calls["GenerateDataKey"] == 1
    assert emulators.SESSION_TOKEN not in str(caught.value)
    assert str(caught.value).isprintable()


def test_another_key_may_not_answer(aws: AWS) -> None:
    master_key, other = aws.open(aws.new_key()), aws.kms.add_key(REGION)
    _, wrapped = master_key.generate_key(HERE)
    aws.change_answers(lambda answer: answer | {"KeyId": other})
    for use in (lambda: master_key.generate_key(HERE), lambda: master_key.unwrap_key(wrapped, HERE)):
        with pytest.raises(KeyServiceError):
            use()
    aws.change_answers(
        lambda answer: {"KeyMetadata": answer["KeyMetadata"] | {"Arn": other.replace(REGION, FAR_REGION)}}
    )
    with pytest.raises(KeyServiceError):
        aws.open(aws.reference(master_key.id.rpartition("/")[2], region=REGION))


def test_a_replica_opens_what_the_primary_wrapped(aws: AWS) -> None:
    near = aws.kms.add_key(REGION, FAR_REGION)
    far = near.replace(REGION, FAR_REGION)
    with aws.session(aws.reference(near), dataset_id=DATASET) as writer:
        key, key_metadata = writer.new_data_key(aws.reference(near), PLACE)
    assert json.loads(key_metadata)["masterKeyID"] == near
    with aws.session(aws.new_key(), aws.reference(far)) as reader:
        assert reader.open_data_key(key_metadata, PLACE).same_as(key)
    # Another key, or the same id in another account, opens nothing and is not asked.
    aws.server.calls.clear()
    strange = far.replace("111122223333", "444455556666")
    reader = aws.session(aws.reference(strange), aws.new_key(REGION, FAR_REGION))
    with reader, pytest.raises(KeyNotFoundError):
        reader.open_data_key(key_metadata, PLACE)
    assert aws.server.calls == {}


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    servers.stop()


def _replicated(url: str) -> tuple[str, str]:
    client = boto3.client("kms", region_name=REGION, endpoint_url=url)
    near = client.create_key(MultiRegion=True)["KeyMetadata"]["Arn"]
    client.replicate_key(KeyId=near.rpartition("/")[2], ReplicaRegion=FAR_REGION)
    return near, near.replace(REGION, FAR_REGION)


@pytest.mark.parametrize(
    "emulator",
    [
        emulators.ministack,
        pytest.param(
            emulators.moto,
            marks=pytest.mark.xfail(
                reason="moto cuts the id of a multi-Region key in its ciphertexts", strict=True, raises=KeyServiceError
            ),
        ),
    ],
)
def test_a_replica_opens_in_emulators(emulator: object, servers: Servers, aws: AWS) -> None:
    url = servers.start(emulator)  # type: ignore[arg-type]
    near, far = (f"aws-kms://{arn}?endpoint={url}" for arn in _replicated(url))
    with aws.session(near, dataset_id=DATASET) as writer:
        key, key_metadata = writer.new_data_key(near, PLACE)
    with aws.session(far) as reader:
        assert reader.open_data_key(key_metadata, PLACE).same_as(key)


def test_calls_in_a_second_are_bounded_over_all_keys(aws: AWS) -> None:
    clock = FakeClock()
    patience = fake_patience(clock=clock)
    service = AWSKMSService(patience)
    slow = AWS(aws.kms, aws.server, service)
    arns = [aws.kms.add_key(REGION) for _ in range(2)]
    keys = [slow.open(slow.reference(arn, max_calls_per_second="0.5")) for arn in arns]
    began = clock.now
    for _ in range(5):
        for key in keys:
            key.generate_key(HERE)
    assert clock.now - began == 18  # ten calls, two seconds apart
    began = clock.now
    slow.open(slow.reference(arns[0])).generate_key(HERE)  # another bound, which nobody used
    assert clock.now == began


def test_throttling_is_logged_and_overcome(aws: AWS, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    left = [1, 1, 1]
    throttle = aws.server
    aws.fail("ThrottlingException", "slow down")
    always = throttle.trouble
    assert always is not None
    throttle.trouble = lambda request: always(request) if left and left.pop() else None
    aws.open(aws.new_key()).generate_key(HERE)
    assert throttle.calls["GenerateDataKey"] == 4
    assert len([record for record in caplog.records if record.name == "pipecrypt.keys.schemes.caller"]) == 3


def test_without_the_extra(aws: AWS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingExtraError) as caught:
        aws.open(aws.new_key())
    assert 'pip install "pipecrypt[aws]"' in caught.value.hint


def test_boto3_is_imported_when_a_key_is_opened() -> None:
    loaded = "[name for name in sys.modules if name.startswith('boto')]"
    code = f"import sys, pipecrypt.keys.schemes.aws_kms; print({loaded})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_boto3_has_to_know(aws: AWS, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = aws.reference("alias/pii")
    with pytest.raises(KeyReferenceError):  # no region
        aws.open(reference)
    with pytest.raises(KeyReferenceError):
        aws.open(f"{reference}&profile=nobody&region={REGION}")
    aws.kms.add_key(FAR_REGION, alias="pii")
    monkeypatch.setenv("AWS_DEFAULT_REGION", FAR_REGION)
    assert FAR_REGION in aws.open(reference).id
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    with pytest.raises(KeyServiceError) as caught:
        aws.open(reference)
    assert "aws sts get-caller-identity" in caught.value.hint


def test_credentials_of_a_profile(aws: AWS, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    path = f"{tmp_path}/config"
    with open(path, "w") as file:
        file.write(f"[profile ops]\nregion = {FAR_REGION}\naws_access_key_id = AKIDOFOPS\naws_secret_access_key = x\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", path)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    signed_by: list[str] = []
    aws.server.trouble = lambda request: signed_by.append(_signer(request))
    aws.kms.add_key(FAR_REGION, alias="pii")
    assert FAR_REGION in aws.open(aws.reference("alias/pii", profile="ops")).id
    assert signed_by == ["AKIDOFOPS"]


def test_endpoints_of_the_environment_are_checked_too(aws: AWS, monkeypatch: pytest.MonkeyPatch) -> None:
    arn = aws.kms.add_key(REGION)
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", aws.server.url)
    aws.open(f"aws-kms://{arn}").generate_key(HERE)
    assert aws.server.calls == {"GenerateDataKey": 1}
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://kms.example")
    with pytest.raises(KeyReferenceError):
        aws.open(f"aws-kms://{arn}")


def test_nothing_secret_is_logged_while_a_key_is_used(aws: AWS, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bodies: list[bytes] = []

    def remember(request: HTTPRequest) -> None:
        bodies.append(aws.kms.handle(request).body)

    aws.server.trouble = remember
    aws.open(aws.new_key(alias="pii"))
    master_key = aws.open(aws.reference("alias/pii", region=REGION))
    key, _ = master_key.generate_key(HERE)
    assert key.expose_key_bytes().hex() not in caplog.text
    for secret in (emulators.SECRET_ACCESS_KEY, emulators.SESSION_TOKEN, "Plaintext"):
        assert secret not in caplog.text
    assert "botocore" in {record.name.partition(".")[0] for record in caplog.records}  # the rest is logged as ever


def test_nothing_secret_in_representations(aws: AWS) -> None:
    master_key = aws.open(aws.new_key())
    assert repr(master_key) == f"<AWSMasterKey {master_key.id}>"
    assert emulators.SECRET_ACCESS_KEY not in repr(master_key._client)  # type: ignore[attr-defined]
    assert "object at" in repr(SERVICE)


def _signer(request: HTTPRequest) -> str:
    return request.headers["authorization"].partition("Credential=")[2].partition("/")[0]
