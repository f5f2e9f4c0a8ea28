"""Recognize a file that was signed elsewhere or earlier, by its digest. Comparing is left to manifest.

What stands in lists of earlier versions is not authenticated any more. It only chooses the word for a file that is
refused in any case.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Final

from pipecrypt.crypto.digest import digest
from pipecrypt.dataset.opening.signed_dataset import SignedDataset
from pipecrypt.errors import PipecryptError
from pipecrypt.manifest.compare import KnownDigests
from pipecrypt.manifest.file_list import decode_file_list
from pipecrypt.manifest.model import Manifest
from pipecrypt.manifest.paths import RESERVED_DIRECTORY, file_list_path
from pipecrypt.store.inventory import take_inventory
from pipecrypt.store.small_files import LocatedFiles

__all__ = ["LazyKnownDigests"]

_LIST_NAME: Final = re.compile(r"\A(?P<version>[1-9][0-9]{0,18})-(?P<digest>[0-9a-f]{16})\.jsonl\Z", re.ASCII)
_MAX_LISTS: Final = 4
_MAX_LIST_BYTES: Final = 64 << 20


class LazyKnownDigests:
    """What tells swapped and old files from modified ones; looked up when the first file differs, and then kept.

    Args:
        dataset: the signed dataset.
        files: its storage.
    """

    def __init__(self, dataset: SignedDataset, files: LocatedFiles) -> None:
        """Look up nothing yet."""
        self._dataset = dataset
        self._files = files
        self._lock = threading.Lock()
        self._known: KnownDigests | None = None
        self._earlier_paths: set[str] = set()

    def known(self) -> KnownDigests:
        """Return the digests of this version's files and of the files of versions before, as far as lists are left."""
        with self._lock:
            if self._known is None:
                paths = self._dataset.known_digests().paths
                earlier = frozenset(value for value in self._earlier() if value not in paths)
                self._known = KnownDigests(paths, earlier)
            return self._known

    def was_listed(self, path: str) -> bool:
        """Say whether a version before had a file of this path, as far as lists are left."""
        self.known()
        return path in self._earlier_paths

    def _earlier(self) -> Iterator[str]:
        manifest = self._dataset.verified.manifest
        for version, sha256_start in self._lists(manifest):
            try:
                yield from self._digests(manifest, version, sha256_start)
            except PipecryptError:
                continue  # a list that cannot be read tells nothing

    def _lists(self, manifest: Manifest) -> list[tuple[int, str]]:
        """Return version and beginning of the digest of the newest lists before this version."""
        directory = self._files.location(f"{self._dataset.root}/{RESERVED_DIRECTORY}/files")
        found = []
        try:
            for path, file in take_inventory(directory, lambda _: False):
                match = _LIST_NAME.match(path)
                if match is not None and file is not None and int(match["version"]) < manifest.version:
                    found.append((int(match["version"]), match["digest"]))
        except PipecryptError:
            return []
        return sorted(found, reverse=True)[:_MAX_LISTS]

    def _digests(self, manifest: Manifest, version: int, sha256_start: str) -> Iterator[str]:
        path = f"{self._dataset.root}/{file_list_path(version, sha256_start)}"
        data = self._files.read(path, _MAX_LIST_BYTES) or b""
        if digest(data).startswith(sha256_start):
            for entry in decode_file_list(data, manifest.digests):
                self._earlier_paths.add(entry.path)
                yield from entry.digests().values()
