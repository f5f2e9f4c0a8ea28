"""The recipes in docs/examples run, and what they leave behind is encrypted.

Spark and Ray are large, so they are asked for: PIPECRYPT_TEST_SPARK=1 needs pyspark and a JDK, PIPECRYPT_TEST_RAY=1
needs ray[data]. PIPECRYPT_SPARK_PYTHON and PIPECRYPT_RAY_PYTHON name a Python that has them, and what pipecrypt needs,
if it is not this one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import pipecrypt as pc

_ROOT = Path(__file__).parents[2]
_EXAMPLES = _ROOT / "docs" / "examples"
_KEY = "keystore://./keys.json#pii"
_ADDRESS = b"person1@example.org"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with people.parquet, a keystore and its key file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "machine.key").write_bytes(os.urandom(32))
    (tmp_path / "machine.key").chmod(0o600)
    for name in ("PIPECRYPT_PASSPHRASE", "PIPECRYPT_PASSPHRASE_FILE", "PIPECRYPT_KEYS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIPECRYPT_KEY_FILE", str(tmp_path / "machine.key"))
    monkeypatch.setenv("PYTHONPATH", str(_ROOT))
    subprocess.run([sys.executable, _EXAMPLES / "make_people.py"], check=True)
    subprocess.run([sys.executable, "-m", "pipecrypt", "keys", "new", _KEY], check=True, capture_output=True)
    return tmp_path


def run(name: str, *arguments: object, python: str = sys.executable) -> list[str]:
    command = [python, str(_EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def rows(path: str, key: str = _KEY) -> list[dict[str, object]]:
    with pc.open(path, keys=[key]) as dataset:
        found: list[dict[str, object]] = dataset.to_table().to_pylist()
    return sorted(found, key=lambda row: str(row["id"]))


def no_plaintext(directory: Path) -> None:
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if _ADDRESS in path.read_bytes()]


def test_queue(place: Path) -> None:
    # Three rows in each of two row groups, two rows in a batch.
    assert run("queue_batches.py", _KEY) == ["3 messages, 6 rows, id, email, customer"]


def test_kafka(place: Path) -> None:
    confluent_kafka = pytest.importorskip("confluent_kafka", reason="pip install confluent-kafka")
    with broker(confluent_kafka) as servers:
        assert run("kafka_batches.py", servers, _KEY) == ["3 messages, 6 rows"]
        values = raw_messages(confluent_kafka, servers, "people", 3)
    assert not [value for value in values if _ADDRESS in value]
    assert {value[:4] for value in values} == {b"PAR1"}


@contextmanager
def broker(confluent_kafka: object) -> Iterator[str]:
    """A broker inside of the client library: it speaks Kafka's protocol, and keeps nothing."""
    client = confluent_kafka.Producer({"test.mock.num.brokers": 1, "log_level": 0})  # type: ignore[attr-defined]
    (found,) = client.list_topics(timeout=30).brokers.values()
    yield f"{found.host}:{found.port}"
    client.flush()


def raw_messages(confluent_kafka: object, servers: str, topic: str, count: int) -> list[bytes]:
    settings = {"bootstrap.servers": servers, "group.id": "raw", "auto.offset.reset": "earliest", "log_level": 0}
    consumer = confluent_kafka.Consumer(settings)  # type: ignore[attr-defined]
    consumer.subscribe([topic])
    values: list[bytes] = []
    while len(values) < count:
        values += [message.value() for message in consumer.consume(count - len(values), timeout=60)]
    consumer.close()
    return values


def test_spark(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "PIPECRYPT_TEST_SPARK" not in os.environ:
        pytest.skip("set PIPECRYPT_TEST_SPARK=1 to run Spark")
    python = os.environ.get("PIPECRYPT_SPARK_PYTHON", sys.executable)
    monkeypatch.setenv("PYSPARK_PYTHON", python)
    assert run("spark_batches.py", _KEY, python=python)[-1].endswith("6 rows, the same")
    no_plaintext(place / "sealed")


def test_ray(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "PIPECRYPT_TEST_RAY" not in os.environ:
        pytest.skip("set PIPECRYPT_TEST_RAY=1 to run Ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    python = os.environ.get("PIPECRYPT_RAY_PYTHON", sys.executable)
    assert run("ray_batches.py", _KEY, python=python)[-1] == "sealed: 6 rows, the ids add up to 21"


def test_dask(place: Path) -> None:
    pytest.importorskip("dask.dataframe", reason="pip install 'dask[dataframe]'")
    output = run("dask_partitions.py", _KEY)
    assert output[-1] == "6 rows, 6 addresses"
    assert sorted(path.name for path in (place / "sealed").iterdir()) == [f"part-0000{n}.parquet" for n in range(3)]
    no_plaintext(place / "sealed")


def test_frames(place: Path) -> None:
    for library in ("pandas", "polars", "duckdb"):
        pytest.importorskip(library)
    assert run("frames.py", _KEY) == ["6", "6", "4", "2"]
    people = rows("people.parquet")
    expected = {"pandas": people, "polars": people, "lazy": people[2:], "duckdb": people[4:]}
    assert {name: rows(f"sealed/{name}.parquet") for name in expected} == expected
    no_plaintext(place / "sealed")


def test_etl_writer(place: Path) -> None:
    assert run("etl_writer.py", "people.parquet", "sealed/people.parquet", _KEY) == ["6 rows, 3 data keys"]
    assert rows("sealed/people.parquet") == [row | {"domain": "example.org"} for row in rows("people.parquet")]
    no_plaintext(place / "sealed")
