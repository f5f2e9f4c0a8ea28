import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecrypt.dataset.statement.paths import (
    MANIFEST_PATH,
    check_file_name,
    check_inside,
    check_path,
    check_signable_paths,
    file_list_path,
    is_reserved,
    signature_path,
)
from pipecrypt.errors import UsageError
from pipecrypt.vocabulary.documents import DocumentError
from tests.dataset.statement.world import paths

HOSTILE = [
    "", "/", "/a", "a/", "a//b", ".", "..", "./a", "../a", "a/..", "a/../b", "a/.", "a\\b", "..\\a", "\\\\host\\share",
    "a\0",
    "\0", "a\nb", "a\x7f", "a\x85b", "C:/a", "c:a", "s3://bucket/a", "\ud800", "_pipecrypt", "_pipecrypt/manifest.json",
    "_PipeCrypt/x", "a" * 1025, "ä" * 513,
]  # fmt: skip
HARMLESS = [
    "a", "a/b/c.parquet", "..a", "a..", "...", ".hidden", "_x", "_pipecrypt2/a", "a/_pipecrypt/b",
    "date=2026-01-01/a b.parquet",
    "ä/日本.parquet", "ab:c", "a" * 1024, "%2e%2e/a", "~/a",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE, ids=ascii)
def test_refuses_what_may_lead_elsewhere(path: str) -> None:
    with pytest.raises(DocumentError):
        check_path(path)
    with pytest.raises(UsageError):
        check_signable_paths([path])


@pytest.mark.parametrize("path", HARMLESS, ids=ascii)
def test_takes_names_that_only_look_so(path: str) -> None:
    check_path(path)
    check_signable_paths([path])


def test_a_single_file_has_a_name_only() -> None:
    check_file_name("a.parquet")
    for path in ("a/b", "..", ""):
        with pytest.raises(DocumentError):
            check_file_name(path)


@given(st.text(max_size=40))
def test_only_our_errors_for_any_text(text: str) -> None:
    try:
        check_path(text)
    except DocumentError:
        return
    assert not text.startswith("/")
    assert ".." not in text.split("/")
    assert "" not in text.split("/")


@given(paths)
def test_no_path_of_data_is_reserved(path: str) -> None:
    assert not is_reserved(path)


def test_places() -> None:
    assert file_list_path(3, "0123456789abcdef" * 4) == "_pipecrypt/files/3-0123456789abcdef.jsonl"
    assert signature_path("a/b.parquet") == "a/b.parquet.sig.json"
    assert is_reserved(MANIFEST_PATH)
    assert is_reserved("_pipecrypt")
    # Where case counts, this is somebody else's directory, so it shows up as extra.
    assert not is_reserved("_Pipecrypt/a")


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x", "a/../../x", "a/./x", "a//x", "a/..", ".", "a\0b", "_pipecrypt/runs", "_PipeCrypt"],
)
def test_what_leads_out_of_a_dataset_is_refused(path: str) -> None:
    with pytest.raises(DocumentError):
        check_inside(path)


@pytest.mark.parametrize("path", ["a", "a/b", "..a/b..", "a\nb", "a\\b", "c:x", "x/_pipecrypt"])
def test_odd_names_stay_inside(path: str) -> None:
    check_inside(path)
