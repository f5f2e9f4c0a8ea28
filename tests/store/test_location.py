from __future__ import annotations

import pickle
from dataclasses import fields
from pathlib import Path

import pytest

from pipecrypt.errors import UsageError
from pipecrypt.store.location import Location
from pipecrypt.store.problems import describe


@pytest.mark.parametrize(
    ("url", "is_local"),
    [
        ("data/a.parquet", True),
        ("/data/a b#%20*.parquet", True),
        ("file:///data/a.parquet", True),
        ("local:///data", True),
        ("a::b", True),
        ("C:relative", True),
        ("s3://bucket/a", False),
        ("memory://a", False),
        ("simplecache::s3://bucket/a", False),
    ],
)
def test_local_or_not(url: str, is_local: bool) -> None:
    assert Location(url).is_local is is_local


def test_local_paths_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert Location("file:///a%20b#c").local_path == "/a%20b#c"
    assert Location("~/x").local_path == "/home/me/x"
    assert Location("a/~x").local_path == "a/~x"


@pytest.mark.parametrize("url", ["", "a\0b"])
def test_impossible_urls_are_refused(url: str) -> None:
    with pytest.raises(UsageError):
        Location(url)


def test_children_and_siblings() -> None:
    assert Location("out").child("a/b.parquet").url == "out/a/b.parquet"
    assert Location("s3://b/x/").child("a").url == "s3://b/x/a"
    assert Location("/").child("a").url == "/a"
    assert Location("s3://b/x/a.parquet").sibling("k.json").url == "s3://b/x/k.json"
    assert Location("a.parquet").sibling("k.json").url == "k.json"
    assert Location("s3://b/x/", {"key": "k"}).child("a").options == {"key": "k"}


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Location(".").name == tmp_path.name
    assert Location("a/b.parquet").name == "b.parquet"
    assert Location("s3://bucket/a/b.parquet").name == "b.parquet"


def test_secrets_are_not_shown() -> None:
    location = Location("ftp://me:hunter2@host/a", {"secret": "hunter2"})
    signed = Location("https://host/a.parquet?sig=hunter2")
    assert "hunter2" not in repr(location) + location.display + repr(signed) + signed.display
    assert "secret" in repr(location)


def test_pickles_and_keeps_its_own_options() -> None:
    options: dict[str, object] = {"client_kwargs": {"a": 1}}
    location = Location("s3://b/a", options)
    options["x"] = 1
    assert "x" not in location.options
    assert pickle.loads(pickle.dumps(location)) == location  # noqa: S301
    assert len({location, Location("s3://b/a")}) == 2


def test_memory_is_in_this_process_only() -> None:
    assert Location("memory://a").is_in_this_process
    assert Location("simplecache::memory://a").is_in_this_process
    assert not Location("s3://memory/a").is_in_this_process


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/d/a.parquet?X-Amz-Signature=SECRET", "https://host/d/a.parquet"),
        ("simplecache::https://host/d/a.parquet?X-Amz-Signature=SECRET", "simplecache::https://host/d/a.parquet"),
        ("sftp://bob:SECRET@host/a.parquet", "sftp://***@host/a.parquet"),
        ("sftp://bob:p@SECRET/w@host/a.parquet", "sftp://***@host/a.parquet"),
        ("ftp://bob:pa/SECRET@host/a.parquet", "ftp://***@host/a.parquet"),
        ("s3://bucket/what?/us@er.parquet", "s3://bucket/what?/us@er.parquet"),
        ("http://host:8080/us@er.parquet", "http://host:8080/us@er.parquet"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert Location(url).display == shown
    assert "SECRET" not in Location(url).name
    assert "SECRET" not in describe(RuntimeError(f"cannot open {url} now"))


def test_places_derived_from_a_location_have_all_its_fields() -> None:
    base = Location("s3://bucket/dir/a.parquet", {"anon": True}, 2)
    for derived in (base.child("b"), base.listed("b"), base.sibling("b")):
        whole = Location(derived.url, base.options, derived.depth)
        for each in fields(Location):
            assert getattr(derived, each.name) == getattr(whole, each.name)
