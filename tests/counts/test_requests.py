"""How many requests each command sends to an object store: the table of docs/requests.md, counted anew.

PIPECRYPT_UPDATE_DOCS=1 writes the table from what was counted.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipecrypt as pc
from pipecrypt.cli.main import main
from pipecrypt.store.lease import Lease
from tests.counts.s3_requests import Request, cost_of, counted, shown
from tests.doubles.fault_proxy import FaultProxy, fault_proxy
from tests.servers.s3_server import S3Server

FILES = 3
_PAGE = Path(__file__).parents[2] / "docs/requests.md"
_ROW = re.compile(r"^\| (?P<name>[^|]*`[^|]*) \| (?P<each_file>[^|]*) \| (?P<each_run>[^|]*) \|$", re.MULTILINE)
_UPDATES = os.environ.get("PIPECRYPT_UPDATE_DOCS", "") not in {"", "0"}


@dataclass(frozen=True)
class Bucket:
    """Some plaintext files in a bucket behind a proxy, keys, and a configuration that encrypts them."""

    root: Path
    proxy: FaultProxy
    url: str

    @property
    def sink(self) -> str:
        return f"{self.url}/sink/"

    def key(self, name: str) -> str:
        return f"keystore://{self.root}/keys.json#{name}"

    def count(self, work: Callable[[], object]) -> Counter[Request]:
        """Return what a piece of work asks of the server, with a client that has asked nothing yet."""
        pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
        with counted(self.proxy, "raw") as requests:
            work()
        return requests

    def command(self, *arguments: str) -> Callable[[], object]:
        def work() -> None:
            assert main(arguments) == 0

        return work

    def configuration(self, *, signs: bool, workers: int) -> str:
        text = [
            f"source: {{ url: '{self.url}/raw/' }}",
            f"sink: {{ url: '{self.sink}' }}",
            "encrypt: { default: pii }",
            f"keys: {{ pii: '{self.key('pii')}' }}",
            f"run: {{ workers: {workers} }}",
        ]
        path = self.root / "run.yaml"
        path.write_text("\n".join(text + [f"sign: '{self.key('signing')}'"] * signs))
        return str(path)


@pytest.fixture
def proxy(moto_s3_server: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(moto_s3_server.url) as made:
        yield made


@pytest.fixture
def new_bucket(
    tmp_path: Path, proxy: FaultProxy, moto_s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], Bucket]:
    key_file = tmp_path / "machine.key"
    key_file.touch(mode=0o600)
    key_file.write_bytes(os.urandom(32))
    environment = {**moto_s3_server.environment, "AWS_ENDPOINT_URL_S3": proxy.url, "PIPECRYPT_KEY_FILE": str(key_file)}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # Time decides how often a lock is renewed: on a busy machine even here.
    monkeypatch.setattr(Lease, "_beat", lambda lock: lock._ends.wait())
    table = pa.table({"id": range(1000), "email": [f"{row}@example.org" for row in range(1000)]})
    pq.write_table(table, tmp_path / "one.parquet", row_group_size=500)
    body = (tmp_path / "one.parquet").read_bytes()

    def make(files: int) -> Bucket:
        name, client = moto_s3_server.new_bucket(), moto_s3_server.client()
        for number in range(files):
            client.put_object(Bucket=name, Key=f"raw/{number}.parquet", Body=body)
        root = tmp_path / name
        root.mkdir()
        bucket = Bucket(root, proxy, f"s3://{name}")
        for key, kind in (("pii", "aes256"), ("other", "aes256"), ("signing", "ed25519")):
            assert main(["keys", "new", bucket.key(key), "--type", kind]) == 0
        return bucket

    return make


def _what(*, signs: bool) -> str:
    return "signed" if signs else "unsigned"


def _counts(bucket: Bucket, *, signs: bool) -> dict[str, Counter[Request]]:
    """Carry out one command after the other on one dataset, and count the requests of each."""
    config = bucket.configuration(signs=signs, workers=1)
    trust = bucket.key("signing")
    trusted = ["--trust", trust] if signs else []
    what = _what(signs=signs)
    keys = ["--key", bucket.key("pii")]

    def read() -> None:
        with pc.open(bucket.sink, keys=[bucket.key("pii")], trust=[trust] if signs else None) as dataset:
            assert len(dataset.files) == dataset.num_rows // 1000

    works: dict[str, Callable[[], object]] = {
        "`pipecrypt plan`": bucket.command("plan", config),
        "`pipecrypt run`": bucket.command("run", config),
        "`pipecrypt run`, nothing to do": bucket.command("run", config),
        "`pipecrypt run --overwrite`": bucket.command("run", config, "--overwrite"),
        "`pipecrypt decrypt`": bucket.command("decrypt", bucket.sink, str(bucket.root / "back"), *keys, *trusted),
        "`pc.open`": read,
        "`pipecrypt keys usage`": bucket.command("keys", "usage", bucket.sink),
        "`pipecrypt clean`": bucket.command("clean", bucket.sink),
        "`pipecrypt rotate --deep`": bucket.command(
            *("rotate", bucket.sink, "--deep", "--from", bucket.key("pii"), "--to", bucket.key("other")),
            *(["--sign", trust] if signs else []),
        ),
    }
    if signs:
        works["`pipecrypt verify`"] = bucket.command("verify", bucket.sink, "--trust", trust)
    return {f"{name}, {what}": bucket.count(work) for name, work in works.items()}


@pytest.mark.timeout(900)  # on a machine that does much else
@pytest.mark.parametrize("signs", [False, True], ids=["unsigned", "signed"])
def test_each_command_asks_as_often_as_the_table_says(new_bucket: Callable[[int], Bucket], signs: bool) -> None:
    few, many = (_counts(new_bucket(files), signs=signs) for files in (FILES, 2 * FILES))
    costs = {name: cost_of(few[name], many[name], FILES) for name in few}
    counted_rows = {name: (shown(cost.each_file), shown(cost.each_run)) for name, cost in costs.items()}
    text = _PAGE.read_text(encoding="utf-8")
    if _UPDATES:
        _PAGE.write_text(_ROW.sub(lambda row: _row(row, counted_rows), text), encoding="utf-8")
        return
    written = {row["name"]: (row["each_file"], row["each_run"]) for row in _ROW.finditer(text)}
    what = _what(signs=signs)
    assert counted_rows == {name: cells for name, cells in written.items() if name.endswith(f" {what}")}


def _row(row: re.Match[str], rows: dict[str, tuple[str, str]]) -> str:
    each_file, each_run = rows.get(row["name"], (row["each_file"], row["each_run"]))
    return f"| {row['name']} | {each_file} | {each_run} |"
