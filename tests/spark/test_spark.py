"""Spark (parquet-java) reads our files with one data key per column and file, and refuses one per batch, as documented.

Opt in with PIPECRYPT_TEST_SPARK=1; needs pyspark and a JDK. PIPECRYPT_SPARK_PYTHON names a Python that has pyspark,
if it is not this one.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

import pipecrypt as pc
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key
from pipecrypt.keys.session import KeySession
from pipecrypt.parquet.footer.stored import read_sealed_footer
from pipecrypt.parquet.policy import ColumnRule, EncryptionPolicy, FooterMode, KeyScope
from tests.parquet.world import MemorySource, encrypt, parquet_bytes

pytestmark = [
    pytest.mark.spark,
    pytest.mark.skipif("PIPECRYPT_TEST_SPARK" not in os.environ, reason="set PIPECRYPT_TEST_SPARK=1 to run Spark"),
]

SPARK_PYTHON = os.environ.get("PIPECRYPT_SPARK_PYTHON", sys.executable)
CREDENTIALS = Credentials({"PIPECRYPT_PASSPHRASE": "correct horse"})
READER = """
import json, sys
from pyspark.sql import SparkSession
classes, table, path = sys.argv[1:]
session = (
    SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    .config("spark.driver.extraClassPath", classes)
    .config("spark.hadoop.parquet.crypto.factory.class",
            "org.apache.parquet.crypto.keytools.PropertiesDrivenCryptoFactory")
    .config("spark.hadoop.parquet.encryption.kms.client.class", "TableKmsClient")
    .config("spark.hadoop.pipecrypt.test.table", table).getOrCreate()
)
print("ROWS " + json.dumps([list(row) for row in session.read.parquet(path).orderBy("id").collect()]))
"""


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("classes")
    find = "import pyspark, pathlib; print(pathlib.Path(pyspark.__file__).parent / 'jars')"
    jars = subprocess.run([SPARK_PYTHON, "-c", find], check=True, capture_output=True, text=True).stdout.strip()
    source = Path(__file__).with_name("TableKmsClient.java")
    subprocess.run(["javac", "-cp", f"{jars}/*", "-d", str(place), str(source)], check=True)
    return place


def read_with_spark(tmp_path: Path, classes: Path, policy: EncryptionPolicy, table: pa.Table) -> tuple[str, str]:
    with KeySession(policy.key_references(), credentials=CREDENTIALS) as session:
        data = encrypt(parquet_bytes(table, row_group_size=100), policy, session, path="a.parquet")
        return read_file_with_spark(tmp_path, classes, data, session)


def read_file_with_spark(tmp_path: Path, classes: Path, data: bytes, session: KeySession) -> tuple[str, str]:
    sealed = read_sealed_footer(MemorySource(data))
    material = json.loads(sealed.key_metadata)
    with session.unwrap_kek_text(material["wrappedKEK"], material["masterKeyID"]) as kek:
        line = f"{material['wrappedKEK']} {base64.b64encode(kek.expose_key_bytes()).decode()}\n"
    (tmp_path / "a.parquet").write_bytes(data)
    (tmp_path / "table").write_text(line)
    command = [SPARK_PYTHON, "-c", READER, str(classes), str(tmp_path / "table"), str(tmp_path / "a.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout, done.stderr


@pytest.fixture
def key(tmp_path: Path) -> str:
    reference = f"keystore://{tmp_path}/keys.json#pii"
    create_key(reference, "aes256", CREDENTIALS)
    return reference


TABLE = pa.table({"id": range(250), "email": [f"user{row}@example.com" for row in range(250)]})


@pytest.mark.parametrize("footer", FooterMode)
def test_spark_reads_one_data_key_per_file(tmp_path: Path, classes: Path, key: str, footer: FooterMode) -> None:
    policy = EncryptionPolicy(rules=(ColumnRule("email", key),), footer=footer, data_keys=KeyScope.FILE)
    output, errors = read_with_spark(tmp_path, classes, policy, TABLE)
    assert "ROWS " in output, errors[-2000:]
    rows = json.loads(output.split("ROWS ", maxsplit=1)[1].splitlines()[0])
    assert rows == [list(row.values()) for row in TABLE.to_pylist()]


@pytest.mark.parametrize("footer", ["plaintext", "encrypted"])
def test_spark_reads_what_was_rotated_deeply(tmp_path: Path, classes: Path, key: str, footer: str) -> None:
    other = key.replace("#pii", "#other")
    create_key(other, "aes256", CREDENTIALS)
    plain, sealed = tmp_path / "plain.parquet", tmp_path / "sealed.parquet"
    plain.write_bytes(parquet_bytes(TABLE, row_group_size=100))
    policy = pc.Policy(columns={"email": key}, footer=footer, data_keys="file")
    pc.encrypt(plain, sealed, policy, credentials=CREDENTIALS)
    assert pc.rotate(sealed, key, other, deep=True, credentials=CREDENTIALS).changed == 1
    with KeySession([other], credentials=CREDENTIALS) as session:
        output, errors = read_file_with_spark(tmp_path, classes, sealed.read_bytes(), session)
    assert "ROWS " in output, errors[-2000:]
    rows = json.loads(output.split("ROWS ", maxsplit=1)[1].splitlines()[0])
    assert rows == [list(row.values()) for row in TABLE.to_pylist()]


def test_spark_refuses_one_data_key_per_batch(tmp_path: Path, classes: Path, key: str) -> None:
    policy = EncryptionPolicy(rules=(ColumnRule("email", key),), data_keys=KeyScope.BATCH)
    output, _ = read_with_spark(tmp_path, classes, policy, TABLE)
    assert "ROWS " not in output
