"""One file of a dataset as it was written. Its spelling on disk is left to file_list and statement."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.manifest.paths import check_path
from pipecrypt.vocabulary.documents import DocumentError

__all__ = ["MAX_INTEGER", "MAX_KEK_IDS", "MAX_KEK_ID_CHARACTERS", "FileEntry", "check_count", "check_digest"]

# Sizes and row counts are signed 64-bit numbers in Parquet and on every storage.
MAX_INTEGER: Final = (1 << 63) - 1
MAX_KEK_IDS: Final = 1024
MAX_KEK_ID_CHARACTERS: Final = 256
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_KEK_ID: Final = re.compile(r"[\x21-\x7e]{1,256}", re.ASCII)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file, so that anybody can tell whether another one stands in its place.

    Args:
        path: inside the dataset, with `/`; the name of a single file.
        size_bytes: its size.
        rows: its rows.
        sha256: of the whole file as stored, in lower-case hex; None where the manifest names another digest only.
        footer_sha256: of its last bytes: footer, footer length and magic.
        kek_ids: ids of the key encryption keys in its key material, sorted, each once.
        blake3: of the whole file, in lower-case hex, where the manifest names it.
        task_id: of the task that wrote it, 64 hex digits; None where no run is to tell later that it was done.

    Raises:
        DocumentError: a member is outside of its range. A writer checks paths with `check_signable_paths` before.
    """

    path: str
    size_bytes: int
    rows: int
    sha256: str | None
    footer_sha256: str
    kek_ids: tuple[str, ...]
    blake3: str | None = None
    task_id: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be, from our own code or a hostile file."""
        check_path(self.path)
        check_count("size_bytes", self.size_bytes)
        check_count("rows", self.rows)
        check_digest("footer_sha256", self.footer_sha256)
        for algorithm, digest in self.digests().items():
            check_digest(algorithm.value, digest)
        if self.task_id is not None:
            check_digest("task", self.task_id)
        if self.sha256 is None and self.blake3 is None:
            raise DocumentError(f"file {self.path!a} has no digest")
        _check_kek_ids(self.kek_ids)

    def digests(self) -> dict[DigestAlgorithm, str]:
        """Return the digests of the whole file."""
        found = {DigestAlgorithm.SHA256: self.sha256, DigestAlgorithm.BLAKE3: self.blake3}
        return {algorithm: digest for algorithm, digest in found.items() if digest is not None}


def check_count(name: str, value: int) -> None:
    """Pass if `value` is a size or a number of things.

    Raises:
        DocumentError: no integer, negative, or above 2^63 - 1.
    """
    if type(value) is not int or not 0 <= value <= MAX_INTEGER:
        raise DocumentError(f"{name} is not an integer from 0 to 2^63 - 1")


def check_digest(name: str, value: str) -> None:
    """Pass if `value` is 256 bits in lower-case hex.

    Raises:
        DocumentError: it is not.
    """
    if not isinstance(value, str) or _DIGEST.fullmatch(value) is None:
        raise DocumentError(f"{name} is not a digest of 64 lower-case hex digits")


def _check_kek_ids(kek_ids: tuple[str, ...]) -> None:
    if len(kek_ids) > MAX_KEK_IDS:
        raise DocumentError(f"more than {MAX_KEK_IDS} KEK ids")
    earlier = ""
    for kek_id in kek_ids:
        if not isinstance(kek_id, str) or _KEK_ID.fullmatch(kek_id) is None:
            raise DocumentError(f"a KEK id is not printable ASCII text of 1 to {MAX_KEK_ID_CHARACTERS} characters")
        if kek_id <= earlier:
            raise DocumentError("the KEK ids are not sorted, or one occurs twice")
        earlier = kek_id
