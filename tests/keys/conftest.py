import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipecrypt.crypto.kdf import Argon2Parameters
from pipecrypt.keys.credentials import Credentials
from pipecrypt.testing import MemoryKeyService
from tests.doubles.fake_kms import FakeKMS, start_fake_kms
from tests.keys.aws import AWS
from tests.keys.emulators import AWS_ENVIRONMENT

CHEAP_KDF = Argon2Parameters(salt=bytes(16), memory_kib=8192, iterations=1, lanes=1)


@pytest.fixture
def cheap_kdf() -> Argon2Parameters:
    return CHEAP_KDF


@pytest.fixture
def credentials() -> Credentials:
    return Credentials({"PIPECRYPT_PASSPHRASE": "correct horse"})


@pytest.fixture
def wrong_credentials() -> Credentials:
    return Credentials({"PIPECRYPT_PASSPHRASE": "battery staple"})


@pytest.fixture
def memory() -> MemoryKeyService:
    return MemoryKeyService()


@pytest.fixture
def keystore(tmp_path: Path) -> Callable[[str], str]:
    return lambda name: f"keystore://{tmp_path}/keys.json#{name}"


@pytest.fixture
def vectors() -> Path:
    default = Path(__file__).parents[3] / "shared" / "vectors"
    folder = Path(os.environ.get("PIPECRYPT_VECTORS", default)) / "parquet-testing" / "data"
    if not folder.is_dir():
        pytest.skip("the vectors of parquet-testing are not here")
    return folder


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[AWS]:
    for name, value in AWS_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS"):
        monkeypatch.delenv(name, raising=False)
    kms = FakeKMS()
    with start_fake_kms(kms) as server:
        yield AWS(kms, server)
