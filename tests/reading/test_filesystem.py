"""The fsspec file system, through fsspec itself and through every reader that takes one."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import duckdb
import fsspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

import pipecrypt as pc
from pipecrypt.errors import (
    AccessError,
    FormatError,
    KeyNotFoundError,
    NoRegularFileError,
    UnsupportedError,
    UsageError,
)
from pipecrypt.keys.session import KeySession
from pipecrypt.parquet.policy import FooterMode
from pipecrypt.reading import views as views_module
from pipecrypt.reading.filesystem import PipecryptFileSystem
from tests.parquet.world import parquet_bytes, sample_table
from tests.reading.world import CREDENTIALS, Keys, opens_no_pipe, seal, write

FOOTERS = list(FooterMode)


def storage_options(*keys: str, **options: object) -> dict[str, object]:
    return {"pipecrypt": {"keys": list(keys), **options}}


def filesystem(*keys: str, **options: object) -> PipecryptFileSystem:
    fs, _ = fsspec.url_to_fs("pipecrypt::file:///", **storage_options(*keys, **options))
    assert isinstance(fs, PipecryptFileSystem)
    return fs


@pytest.fixture
def table() -> pa.Table:
    return sample_table()


# ---- readers ----


@pytest.mark.parametrize("footer", FOOTERS)
def test_pandas(tmp_path: Path, keys: Keys, table: pa.Table, footer: FooterMode) -> None:
    path = write(tmp_path / "a.parquet", table, keys.policy(footer=footer))
    frame = pd.read_parquet(f"pipecrypt::file://{path}", storage_options=storage_options(keys.open))
    pd.testing.assert_frame_equal(frame, table.to_pandas())
    one = pd.read_parquet(f"pipecrypt::file://{path}", columns=["id"], storage_options=storage_options(keys.open))
    assert one["id"].tolist() == table["id"].to_pylist()


def test_pyarrow_file_and_dataset(tmp_path: Path, keys: Keys, table: pa.Table) -> None:
    for part in range(3):
        write(tmp_path / "data" / f"year=202{part}" / "a.parquet", table, keys.policy())
    arrow = pafs.PyFileSystem(pafs.FSSpecHandler(filesystem(keys.open)))
    path = f"{tmp_path}/data/year=2020/a.parquet"
    assert pq.read_table(path, filesystem=arrow, partitioning=None).equals(table)
    dataset = ds.dataset(f"{tmp_path}/data", filesystem=arrow, partitioning="hive")
    assert dataset.count_rows() == 3 * table.num_rows
    assert dataset.to_table(columns=["id"], filter=(ds.field("id") < 10) & (ds.field("year") == 2021)).num_rows == 10
    assert pq.read_table(path, filesystem=filesystem(keys.open), columns=["email"], partitioning=None).num_rows == 1000


def test_polars(tmp_path: Path, keys: Keys, table: pa.Table) -> None:
    path = write(tmp_path / "a.parquet", table, keys.policy())
    with filesystem(keys.open).open(str(path)) as file:
        assert pl.read_parquet(file)["email"].to_list() == table["email"].to_pylist()
    arrow = pafs.PyFileSystem(pafs.FSSpecHandler(filesystem(keys.open)))
    scan = pl.scan_pyarrow_dataset(ds.dataset(str(path), filesystem=arrow))
    assert scan.filter(pl.col("id") >= 990).select("email").collect().height == 10


def test_duckdb(tmp_path: Path, keys: Keys, table: pa.Table) -> None:
    path = write(tmp_path / "a.parquet", table, keys.policy())
    write(tmp_path / "b.parquet", table, keys.policy())
    connection = duckdb.connect()
    connection.register_filesystem(filesystem(keys.open))
    query = "select count(*), max(email), sum(customer.age) from 'pipecrypt://{}' where id >= 500"
    ages = sum(row["age"] for row in table["customer"].to_pylist()[500:])
    expected = (500, max(table["email"].to_pylist()[500:]), ages)
    assert connection.execute(query.format(path)).fetchone() == expected
    assert connection.execute(query.format(tmp_path / "*.parquet")).fetchone() == (1000, expected[1], 2 * ages)


def test_dask(tmp_path: Path, keys: Keys, table: pa.Table) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.parquet", table, keys.policy())
    options = storage_options(keys.open)
    frame = dd.read_parquet(f"pipecrypt::file://{tmp_path}/*.parquet", columns=["id"], storage_options=options)
    assert frame["id"].sum().compute(scheduler="threads") == 2 * sum(range(1000))


def test_worker_processes_open_their_own_session(tmp_path: Path, keys: Keys, table: pa.Table) -> None:
    path = write(tmp_path / "a.parquet", table, keys.policy())
    fs = filesystem(keys.open)
    assert fs.cat_file(str(path), 0, 4) == b"PAR1"
    pickled = pickle.dumps(fs)
    assert os.environ["PIPECRYPT_PASSPHRASE"].encode() not in pickled
    script = (
        "import pickle, sys, pyarrow.parquet as pq\n"
        f"fs = pickle.loads({pickled!r})\n"
        f"print(pq.read_table({str(path)!r}, filesystem=fs).num_rows)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "1000\n", done.stderr


# ---- keys ----


@pytest.mark.parametrize("footer", FOOTERS)
def test_columns_without_a_key(tmp_path: Path, keys: Keys, table: pa.Table, footer: FooterMode) -> None:
    path = write(tmp_path / "a.parquet", table, keys.policy("email", footer=footer))
    url, options = f"pipecrypt::file://{path}", storage_options(keys.open)
    assert pd.read_parquet(url, columns=["id", "city"], storage_options=options).shape == (1000, 2)
    with pytest.raises(AccessError, match="column 'email'"):
        pd.read_parquet(url, storage_options=options)
    nulls = storage_options(keys.open, on_missing_key="null")
    frame = pd.read_parquet(url, storage_options=nulls)
    assert frame["email"].isna().all()
    assert frame["id"].tolist() == table["id"].to_pylist()
    connection = duckdb.connect()
    connection.register_filesystem(filesystem(keys.open))
    assert connection.execute(f"select sum(id) from 'pipecrypt://{path}'").fetchone() == (sum(range(1000)),)  # noqa: S608
    with pytest.raises(duckdb.Error, match="email"):
        connection.execute(f"select max(email) from 'pipecrypt://{path}'").fetchone()  # noqa: S608
    with filesystem(keys.open, on_missing_key="null").open(str(path)) as file:
        assert pl.read_parquet(file)["email"].null_count() == 1000


def test_keys_of_the_environment(tmp_path: Path, keys: Keys, table: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", table, keys.policy("email", footer=FooterMode.ENCRYPTED))
    url = f"pipecrypt::file://{path}"
    with pytest.raises(KeyNotFoundError):
        pd.read_parquet(url)
    monkeypatch.setenv("PIPECRYPT_KEYS", f" {keys.open}\n{keys.secret} ")
    assert pd.read_parquet(url).shape == (1000, 5)
    monkeypatch.setenv("PIPECRYPT_KEYS", keys.open)
    with pytest.raises(AccessError):
        pd.read_parquet(url)


def test_one_session_serves_all_files(tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[KeySession] = []
    real = views_module.KeySession
    monkeypatch.setattr(
        views_module, "KeySession", lambda *args, **named: made.append(real(*args, **named)) or made[-1]
    )
    plain = parquet_bytes(sample_table(50), row_group_size=10)
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.parquet").write_bytes(seal(plain, keys.policy(), name))
    fs = filesystem(keys.open)
    for name in "abcabc":
        assert pq.read_table(f"{tmp_path}/{name}.parquet", filesystem=fs).num_rows == 50
    assert len(made) == 1
    assert made[0].service_calls == 3  # one for the KEK of each file's own run


def test_keys_are_wiped_when_the_file_system_is_closed_or_collected(
    tmp_path: Path, keys: Keys, table: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    real = KeySession.close
    monkeypatch.setattr(KeySession, "close", lambda session: closed.append(session) or real(session))
    path = str(write(tmp_path / "a.parquet", table, keys.policy()))
    gc.collect()  # what other tests left
    closed.clear()
    for end in ("close", "collect"):
        fs = PipecryptFileSystem(keys=[keys.open], skip_instance_cache=True)
        file = fs.open(path)
        assert file.read(4) == b"PAR1"
        if end == "close":
            fs.close()
            with pytest.raises(RuntimeError):
                file.read()
            del fs
        else:
            del fs, file
        gc.collect()
        assert len(closed) == (1 if end == "close" else 2)


@pytest.mark.parametrize("for_good", [False, True])
def test_closing_while_a_file_is_opened_wipes_its_keys_too(
    tmp_path: Path, keys: Keys, table: pa.Table, monkeypatch: pytest.MonkeyPatch, for_good: bool
) -> None:
    path = str(write(tmp_path / "a.parquet", table, keys.policy()))
    fs = PipecryptFileSystem(keys=[keys.open], skip_instance_cache=True)
    made, choose = [], views_module.open_view

    def close_meanwhile(*arguments: object, **named: object) -> object:
        made.append(choose(*arguments, **named))  # type: ignore[arg-type]
        fs.close(for_good=for_good)
        return made[-1]

    monkeypatch.setattr(views_module, "open_view", close_meanwhile)
    with pytest.raises(UsageError):
        fs.open(path)
    with pytest.raises(RuntimeError):
        made[0].read_range(0, made[0].size_bytes)
    monkeypatch.setattr(views_module, "open_view", choose)
    if for_good:
        with pytest.raises(UsageError):
            fs.open(path)
    else:
        assert fs.open(path).read(4) == b"PAR1"


def test_key_material_beside_a_file_is_bounded(
    tmp_path: Path, keys: Keys, table: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(write(tmp_path / "a.parquet", table, keys.policy()))
    beside = tmp_path / "_KEY_MATERIAL_FOR_a.parquet.json"

    def ask(session: KeySession, key_metadata: bytes, context: object, **given: object) -> object:
        external = given["external"]
        assert callable(external)
        return external()

    monkeypatch.setattr(KeySession, "open_data_key", ask)
    for content in (b" " * ((16 << 20) + 1), b"no JSON"):
        beside.write_bytes(content)
        with pytest.raises(FormatError, match="_KEY_MATERIAL_FOR_a"):
            PipecryptFileSystem(keys=[keys.open], skip_instance_cache=True).open(path)


@pytest.mark.parametrize(
    "options", [{"on_missing_key": "zero"}, {"keys": "keystore:///k#a"}, {"aad_prefix": "hex:0g"}, {"keys": [1]}]
)
def test_malformed_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        PipecryptFileSystem(**options, skip_instance_cache=True)


# ---- the file system itself ----


@pytest.mark.parametrize("store", ["file", "memory"])
def test_sizes_times_and_contents(tmp_path: Path, keys: Keys, table: pa.Table, store: str) -> None:
    target = fsspec.filesystem(store)
    folder = str(tmp_path) if store == "file" else f"/{tmp_path.name}"
    target.makedirs(folder, exist_ok=True)
    sealed = seal(parquet_bytes(table), keys.policy("email"), "a.parquet")
    plain, text = parquet_bytes(table), b"a,b\n1,2\n"
    for name, data in {"a.parquet": sealed, "plain.parquet": plain, "t.csv": text, "empty": b""}.items():
        target.pipe_file(f"{folder}/{name}", data)
    fs, path = fsspec.url_to_fs(f"pipecrypt::{store}://{folder}", **storage_options(keys.open, keys.secret))
    sizes = {"a.parquet": len(sealed), "plain.parquet": len(plain), "t.csv": len(text), "empty": 0}
    for listing in (
        fs.ls(path),
        list(fs.find(path, detail=True).values()),
        list(fs.glob(f"{path}/*", detail=True).values()),
    ):
        assert {info["name"].rsplit("/", 1)[-1]: info["size"] for info in listing} == sizes
    assert sorted(fs.ls(path, detail=False)) == sorted(fs.find(path))
    assert {name: fs.info(f"{path}/{name}")["size"] for name in sizes} == sizes
    for name, size in sizes.items():
        one = f"{path}/{name}"
        whole = fs.cat_file(one)
        assert len(whole) == size
        with fs.open(one) as file:
            assert file.read() == whole
        if size:  # fsspec's own files stumble over such ranges of an empty one
            assert fs.cat_file(one, 2, -2) == whole[2:-2]
            assert fs.cat_file(one, -5) == whole[-5:]
        assert fs.cat_ranges([one, one], [0, 3], [2, 7]) == [whole[:2], whole[3:7]]
        assert fs.modified(one) == target.modified(f"{folder}/{name}")
        assert fs.exists(one)
        assert fs.isfile(one)
    assert pq.read_table(io.BytesIO(fs.cat_file(f"{path}/a.parquet"))).equals(table)
    assert fs.cat_file(f"{path}/plain.parquet") == plain
    assert fs.isdir(path)
    assert not fs.exists(f"{path}/none")
    with pytest.raises(FileNotFoundError):
        fs.open(f"{path}/none")
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges([f"{path}/none"], 0, 4, on_error="raise")
    assert isinstance(fs.cat_ranges([f"{path}/none"], 0, 4)[0], FileNotFoundError)
    target.rm(folder, recursive=True)


def test_fsspec_open_and_get(tmp_path: Path, keys: Keys, table: pa.Table) -> None:
    path = write(tmp_path / "a.parquet", table, keys.policy())
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    options = storage_options(keys.open)
    with fsspec.open(f"pipecrypt::file://{path}", **options) as file:
        assert pq.read_table(file).equals(table)
    with fsspec.open(f"pipecrypt::{tmp_path}/t.csv", "rt", **options) as lines:
        assert list(lines) == ["a,b\n", "1,2\n"]
    fs = filesystem(keys.open)
    fs.get(str(path), str(tmp_path / "out.parquet"))
    assert pq.read_table(tmp_path / "out.parquet").equals(table)


def test_listings_know_the_size_of_a_view_that_was_opened(tmp_path: Path, keys: Keys, table: pa.Table) -> None:
    path = write(tmp_path / "a.parquet", table, keys.policy("email"))
    fs = filesystem(keys.open)
    assert fs.ls(str(tmp_path))[0]["size"] == path.stat().st_size
    exact = fs.info(str(path))["size"]
    assert exact > path.stat().st_size
    assert fs.ls(str(tmp_path))[0]["size"] == exact
    with fs.open(str(path)) as file:
        assert file.seek(0, 2) == exact == file.size
        assert file.info()["size"] == exact


def test_a_file_that_changes_is_opened_anew(tmp_path: Path, keys: Keys) -> None:
    fs = filesystem(keys.open)
    for rows in (50, 70):
        path = write(tmp_path / "a.parquet", sample_table(rows), keys.policy())
        assert pq.read_table(str(path), filesystem=fs).num_rows == rows


@pytest.mark.parametrize("behind_link", [False, True])
def test_a_named_pipe_is_refused_before_it_is_opened(tmp_path: Path, keys: Keys, behind_link: bool) -> None:
    place = tmp_path / "a.parquet"
    os.mkfifo(tmp_path / "pipe" if behind_link else place)
    if behind_link:
        place.symlink_to("pipe")
    fs = filesystem(keys.open)
    for read in (
        lambda: fs.cat_file(str(place)),
        lambda: fs.cat_file(str(place), 0, 4),
        lambda: fs.cat_ranges([str(place)], 0, 4, on_error="raise"),
        lambda: fs.open(str(place)),
        lambda: fs.view(str(place)),
    ):
        with opens_no_pipe(), pytest.raises(NoRegularFileError):
            read()


@contextlib.contextmanager
def _swapping(place: Path) -> Iterator[None]:
    """Put a named pipe in the place of a file once somebody has looked at it."""
    real = LocalFileSystem.info

    def swap(fs: LocalFileSystem, path: str, **options: object) -> object:
        info = real(fs, path, **options)
        if str(path) == str(place) and info["type"] == "file":
            place.unlink()
            os.mkfifo(place)
        return info

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalFileSystem, "info", swap)
        yield


@pytest.mark.parametrize("is_encrypted", [True, False])
@pytest.mark.parametrize(
    "read",
    [
        lambda fs, place: fs.cat_file(place),
        lambda fs, place: fs.cat_file(place, 0, 4),
        lambda fs, place: fs.cat_ranges([place] * 2, [0, 4], [4, 8], on_error="raise"),
        lambda fs, place: fs.open(place),
        lambda fs, place: fs.view(place),
        lambda fs, place: fs.head(place),
        lambda fs, place: fs.info(place),
        lambda fs, place: fs.get_file(place, f"{place}-copied"),
    ],
    ids=["cat_file", "a range", "ranges", "open", "view", "head", "info", "get_file"],
)
def test_a_named_pipe_that_is_put_there_after_a_look_is_refused(
    tmp_path: Path, keys: Keys, table: pa.Table, read: Callable[[Any, str], object], is_encrypted: bool
) -> None:
    place = tmp_path / "a.parquet"
    if is_encrypted:
        write(place, table, keys.policy())
    else:
        place.write_text("a,b\n1,2\n")
    with _swapping(place), opens_no_pipe(), pytest.raises(NoRegularFileError):
        read(filesystem(keys.open), str(place))


@pytest.mark.parametrize("is_encrypted", [True, False])
def test_a_named_pipe_in_the_place_of_a_file_that_was_opened_is_refused(
    tmp_path: Path, keys: Keys, table: pa.Table, is_encrypted: bool
) -> None:
    place, fs = tmp_path / "a.parquet", filesystem(keys.open)
    if is_encrypted:
        write(place, table, keys.policy())
    else:
        place.write_bytes(parquet_bytes(table))
    with fs.open(str(place)) as file:
        place.unlink()
        os.mkfifo(place)
        with opens_no_pipe():
            if is_encrypted:
                with pytest.raises((NoRegularFileError, OSError)):
                    pq.read_table(file)
            else:  # the file that was opened is held
                assert pq.read_table(file).equals(table)


def test_a_damaged_file_is_no_plaintext_file(tmp_path: Path, keys: Keys, table: pa.Table) -> None:
    path = write(tmp_path / "a.parquet", table, keys.policy())
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(FormatError):
        filesystem(keys.open).open(str(path))


def test_writing_is_refused(tmp_path: Path, keys: Keys) -> None:
    fs, place = filesystem(keys.open), str(tmp_path / "x")
    for call in (
        lambda: fs.open(place, "wb"),
        lambda: fs.open(place, "a"),
        lambda: fs.pipe(place, b"x"),
        lambda: fs.mkdir(place),
        lambda: fs.rm(place),
        lambda: fs.mv(place, place),
        lambda: fs.touch(place),
        lambda: pd.DataFrame({"a": [1]}).to_parquet(
            f"pipecrypt::file://{place}", storage_options=storage_options(keys.open)
        ),
    ):
        with pytest.raises(UnsupportedError, match="read-only") as raised:
            call()
        assert "pipecrypt encrypt" in raised.value.hint
    assert not os.path.exists(place)


def test_credentials_can_be_given_and_are_not_pickled(
    tmp_path: Path, keys: Keys, table: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(write(tmp_path / "a.parquet", table, keys.policy()))
    monkeypatch.setenv("PIPECRYPT_PASSPHRASE", "wrong")
    fs = PipecryptFileSystem(keys=[keys.open], skip_instance_cache=True)
    with pytest.raises(AccessError):
        fs.open(path)
    fs.use(credentials=CREDENTIALS)
    assert fs.open(path).read(4) == b"PAR1"
    assert CREDENTIALS.environ["PIPECRYPT_PASSPHRASE"].encode() not in pickle.dumps(fs)


@pytest.mark.parametrize("trust", [pc.Trust(verify="off"), {"verify": "off"}])
def test_a_file_system_goes_through_json(tmp_path: Path, keys: Keys, table: pa.Table, trust: object) -> None:
    path = str(write(tmp_path / "a.parquet", table, keys.policy()))
    fs, _ = fsspec.url_to_fs("pipecrypt::file:///", pipecrypt={"keys": [keys.open], "trust": trust})
    again = AbstractFileSystem.from_json(fs.to_json())
    again.use(credentials=CREDENTIALS)
    assert isinstance(again, PipecryptFileSystem)
    assert again.cat_file(path, end=4) == b"PAR1"


def test_an_option_that_is_misspelt(tmp_path: Path, keys: Keys) -> None:
    with pytest.raises(UsageError) as caught:
        fsspec.url_to_fs("pipecrypt::file:///", pipecrypt={"keyz": [keys.open]})
    assert "'keys'" in caught.value.hint
