"""The fsspec file system `pipecrypt`: encrypted files of another file system, shown in plaintext. Opening them: views.

`pipecrypt::s3://bucket/x.parquet` is x.parquet with its columns decrypted; whatever is not encrypted is shown as it is.
What the other file system raises about names passes through, because fsspec's callers expect FileNotFoundError.

The size of a view is that of the encrypted file unless keys are missing, so listings open no file: `ls`, `find` and
`glob` show the size of the stored file, or of the view if it was opened before; `info` opens the file, and is exact.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Final, NoReturn, TypeVar

import fsspec
from fsspec.implementations.chained import ChainedFileSystem

from pipecrypt.dataset.signed_file import SignedFile
from pipecrypt.dataset.statement.paths import RESERVED_DIRECTORY
from pipecrypt.dataset.trust import Trust, given_trust
from pipecrypt.errors import (
    ConflictError,
    ContentError,
    IntegrityError,
    NoRegularFileError,
    PipecryptError,
    StorageError,
    UnsupportedError,
    UsageError,
)
from pipecrypt.keys.credentials import Credentials
from pipecrypt.reading.statements import (
    DIRECTORY,
    OTHER,
    Beside,
    ShownAs,
    beside_glob,
    by_name,
    kept_beside_data,
    name_of,
    shown_by_glob,
    staged_as,
)
from pipecrypt.reading.view_file import FileView, ViewFile
from pipecrypt.reading.views import StoredFile, Views, check_names, view_options
from pipecrypt.store.filesystem import LocalFile, fingerprint_of, is_local_filesystem, size_of
from pipecrypt.store.protocol import SourceFile

__all__ = ["PipecryptFileSystem"]

_PROTOCOL: Final = "pipecrypt"
# Taken for one more release in the place of a Trust.
_BESIDE_TRUST: Final = frozenset({"threshold", "verify", "min_version", "dataset_id"})
_Result = TypeVar("_Result")
_GLOB_CHARACTERS: Final = re.compile(r"[*?\[]")


class PipecryptFileSystem(ChainedFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Shows the plaintext of encrypted Parquet files; read-only.

    Key references and public keys are all that it holds and pickles; passphrases and key files come from the
    environment of the process that reads. Each instance opens one key session, when the first file is opened, and wipes
    it when it is closed or collected. fsspec keeps instances; `PipecryptFileSystem.clear_instance_cache()` drops them.

    Args:
        target_protocol: the other file system; default: local files.
        target_options: its storage options.
        fs: the other file system itself, instead of both.
        keys: key references; default: those in PIPECRYPT_KEYS, separated by white space. Only these are ever used.
        trust: whose signatures count and what must hold, as a `Trust` or a mapping of its arguments, for options that
            are JSON or YAML; or a list of public keys: PEM files, PEM texts or key references. Default: those in
            PIPECRYPT_TRUST, separated by white space. With any, files are shown only as they were signed.
        threshold: deprecated, as the next three are: give a `Trust`.
        verify: likewise.
        min_version: likewise.
        dataset_id: likewise.
        on_missing_key: "error": columns whose key is missing raise an AccessError when they are read; "null": they
            read as null.
        aad_prefix: of files that do not store it: bytes, text, or `hex:` and hex digits.
        options: whatever fsspec adds.

    Raises:
        UsageError: an option is malformed, or what is trusted holds no public key.
        KeyReferenceError: a trusted key's reference is malformed, or has an unknown scheme.
        AccessError: a trusted key's reference names no key.
    """

    protocol: ClassVar[str] = _PROTOCOL
    root_marker = ""
    storage_options: Mapping[str, Any]  # fsspec keeps there what it was made with

    def __init__(
        self,
        target_protocol: str | None = None,
        target_options: Mapping[str, Any] | None = None,
        fs: Any = None,
        *,
        keys: Sequence[str] | None = None,
        trust: Trust | Mapping[str, Any] | Sequence[str] | None = None,
        threshold: int | None = None,
        verify: str | None = None,
        min_version: int | None = None,
        dataset_id: str | None = None,
        on_missing_key: str = "error",
        aad_prefix: str | bytes | None = None,
        **options: Any,
    ) -> None:
        """Open the other file system; no key yet."""
        super().__init__(**options)
        check_names(options)
        asked = given_trust(
            Trust.of(trust) if isinstance(trust, Mapping) else trust,
            threshold=threshold,
            verify=verify,
            min_version=min_version,
            dataset_id=dataset_id,
        )
        self._view_options = view_options(keys, on_missing_key, aad_prefix, asked)
        self.fs = fs or fsspec.filesystem(target_protocol or "file", **dict(target_options or {}))
        self._views = Views(self.fs, self._view_options)
        self._finalizer = weakref.finalize(self, self._views.close)
        self._listed_files: Mapping[str, SourceFile] = {}
        # Paths are spelled as the other file system spells them, which its class alone does not know.
        self._strip_protocol = self._strip

    def use(
        self,
        *,
        credentials: Credentials | None = None,
        signed: Mapping[str, SignedFile] | None = None,
        listed: Mapping[str, SourceFile] = MappingProxyType({}),
    ) -> None:
        """Open keys with these credentials, and show these files only. Nothing of it is pickled with the file system.

        Args:
            credentials: instead of the environment's.
            signed: what was signed about each file, by path; None: looked for as files are opened.
            listed: what a listing told about files, by path: they are not looked up again, nor opened by `info`.
        """
        self._listed_files = listed
        self._views.close()
        self._views = Views(self.fs, self._view_options, credentials, pinned=signed)
        self._finalizer = weakref.finalize(self, self._views.close)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what is trusted here: another process may have no PIPECRYPT_TRUST, and none of the PEM files."""
        make, (kind, arguments, options) = super().__reduce__()
        pems = self._views.trusted_pems()
        asked = self._view_options.trust
        trust = asked if pems is None else replace(asked, keys=pems)
        if trust == Trust():
            return make, (kind, arguments, options)
        others = {name: value for name, value in options.items() if name not in _BESIDE_TRUST}
        return make, (kind, arguments, {**others, "trust": trust})

    def to_dict(self, *, include_password: bool = True) -> dict[str, Any]:
        """Return this file system as JSON can say it: a `Trust` as the mapping of its arguments, which is taken too."""
        trust = self.storage_options.get("trust")
        if isinstance(trust, Trust):
            # fsspec has no JSON for None.
            said = {name: value for name, value in asdict(trust).items() if value is not None}
            self.storage_options = {**self.storage_options, "trust": said}
        found: dict[str, Any] = super().to_dict(include_password=include_password)
        return found

    def close(self, *, for_good: bool = False) -> None:
        """Wipe all keys and forget all plaintext; files that are open fail from now on. Safe to call twice.

        Args:
            for_good: refuse to open files from now on; otherwise the next one opens the keys again.
        """
        self._views.close(for_good=for_good)

    def view(self, path: str) -> FileView | None:
        """Return the view of an encrypted file; None where the file is shown as it is stored.

        Raises:
            FileNotFoundError: there is no such file.
            PipecryptError: it cannot be opened.
        """
        return self._viewed(self._strip(path))[2]

    def count_rows(self, path: str) -> int:
        """Return the rows of a table from its footer, which is authenticated where its key is at hand.

        Raises:
            FileNotFoundError: there is no such file.
            UsageError: the file holds no table.
            PipecryptError: it cannot be opened.
        """
        return self._with_file(self._strip(path), self._views.count_rows)[2]

    def _viewed(self, path: str, *, statistics: bool = True) -> tuple[dict[str, Any], StoredFile, FileView | None]:
        return self._with_file(path, partial(self._views.view, statistics=statistics))

    def _with_file(self, path: str, use: Callable[[StoredFile], _Result]) -> tuple[dict[str, Any], StoredFile, _Result]:
        """Return what the storage says about a file, and what `use` makes of it.

        A remote file that was listed is not looked up before. Where that goes wrong it may have been replaced since.
        """
        listed = None if is_local_filesystem(self.fs) else self._listed_files.get(path)
        if listed is not None:
            file = StoredFile(self.fs, path, listed.size_bytes, listed.fingerprint)
            try:
                return {"name": path, "size": listed.size_bytes, "type": "file"}, file, use(file)
            except (ContentError, ConflictError, IntegrityError, StorageError):
                now = self._look(path)[1]
                if now.fingerprint == listed.fingerprint:
                    raise
        info, file = self._look(path)
        return info, file, use(file)

    # ---- names ----

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """Return what is known about a path; the size of a file is that of its plaintext view."""
        path = self._strip(path)
        listed = self._listed_files.get(path)
        if listed is not None:
            return {"name": path, "size": listed.size_bytes, "type": "file"}
        info, file = self._look(path, options)
        if info.get("type") == "file":
            view = self._views.view(file)
            info["size"] = info["size"] if view is None else view.size_bytes
        elif self._is_hidden(path):
            raise FileNotFoundError(path)
        return info

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """List a directory, without opening files. With keys to trust, nothing that was signed may be missing in it."""
        place = self._strip(path)
        depth = len(place.rstrip("/")) + 1

        def lists() -> dict[str, Any]:
            return by_name(self.fs.ls(place, detail=True, **options))

        def shown_as(file: str) -> str:
            return file[:depth] + file[depth:].split("/", 1)[0]

        if not detail and not self._compares():
            return list(map(name_of, self.fs.ls(place, detail=False, **options)))
        found = self._listing(place, lists, shown_as)
        return [self._listed(info) for info in found.values()] if detail else list(found)

    def find(self, path: str, maxdepth: int | None = None, *, detail: bool = False, **options: Any) -> Any:
        """List all files below a path, without opening them; otherwise as `ls`."""
        place = self._strip(path)
        # Some stores list only what begins with a prefix.
        beginning = f"{place.rstrip('/')}/{options.get('prefix') or ''}"
        slashes = place.rstrip("/").count("/") + (maxdepth or 0)
        # At the lowest level, only a directory shows that there is a dataset.
        adds_directories = maxdepth is not None and not options.get("withdirs") and self._compares()
        asked = {**options, "withdirs": True} if adds_directories else options

        def lists() -> dict[str, Any]:
            return by_name(self.fs.find(place, maxdepth=maxdepth, detail=True, **asked))

        def shown_as(file: str) -> str | None:
            is_too_deep = maxdepth is not None and file.count("/") > slashes
            is_below = file.startswith(beginning) or file == place.rstrip("/")  # itself, if it was signed as a file
            return None if is_too_deep or not is_below else file

        def beside() -> list[str]:
            return [f"{beginning.rpartition('/')[0]}/{RESERVED_DIRECTORY}"]

        found = self._listing(place, lists, shown_as, beside)
        if adds_directories:
            found = {name: info for name, info in found.items() if info.get("type") != DIRECTORY}
        return {name: self._listed(info) for name, info in found.items()} if detail else list(found)

    def glob(self, path: str, maxdepth: int | None = None, *, detail: bool = False, **options: Any) -> Any:
        """List what matches a glob, without opening files; otherwise as `ls`."""
        pattern = self._strip(path)
        directory = _GLOB_CHARACTERS.split(pattern, maxsplit=1)[0].rpartition("/")[0]

        def lists() -> dict[str, Any]:
            return by_name(self.fs.glob(pattern, maxdepth=maxdepth, detail=True, **options))

        def beside() -> list[str]:
            given = {name: value for name, value in options.items() if name != "withdirs"}
            patterns = beside_glob(pattern, directory)
            return [name_of(each) for one in patterns for each in self.fs.glob(one, maxdepth=maxdepth, **given)]

        shown_as = shown_by_glob(pattern, fsspec.utils.glob_translate(pattern), maxdepth)
        found = self._listing(directory, lists, shown_as, beside)
        return {name: self._listed(info) for name, info in found.items()} if detail else list(found)

    def _compares(self) -> bool:
        return self._views.statements() is not None

    def _listing(
        self, directory: str, lists: Callable[[], dict[str, Any]], shown_as: ShownAs, beside: Beside = tuple
    ) -> dict[str, Any]:
        """Return what is listed below a directory: the one way, which every listing takes.

        With keys to trust it was compared with what was signed, and is without what pipecrypt keeps beside data.
        """
        statements = self._views.statements()
        if statements is None:
            return lists()
        directory = directory.rstrip("/")
        for is_last in (False, True):
            error: FileNotFoundError | None = None
            try:
                found = lists()
            except FileNotFoundError as absent:  # perhaps because all of it is staged
                found, error = {}, absent
            kinds = {name: str(info.get("type", "file")) for name, info in found.items()}
            try:
                compared = statements.check_listing(directory, kinds, shown_as, beside)
                break
            except IntegrityError:  # perhaps moved to its place since it was listed
                if is_last:
                    raise
        if error is not None and not any(compared.values()):
            raise error
        for staged in compared.values():
            found |= staged_as(staged, shown_as)  # also where something else is in its place
        hidden = kept_beside_data(found, directory, compared)
        return {name: info for name, info in found.items() if name not in hidden}

    def _is_hidden(self, path: str) -> bool:
        """Return whether a path is what pipecrypt keeps beside data, which no listing shows where keys are trusted."""
        if RESERVED_DIRECTORY not in path.split("/") or not self._compares():
            return False
        directory = path.rstrip("/").rpartition("/")[0]
        try:
            return path not in self._listing(directory, lambda: {path: {"name": path}}, lambda file: None)
        except PipecryptError:  # whatever the statement is, nothing there is data
            return True

    def exists(self, path: str, **options: Any) -> bool:
        """Return whether there is such a path."""
        path = self._strip(path)
        if self._is_hidden(path):
            return False
        return bool(self.fs.exists(path, **options)) or self._views.find_elsewhere(path) is not None

    def isfile(self, path: str) -> bool:
        """Return whether the path is a file."""
        path = self._strip(path)
        if path in self._listed_files:  # whether it still is shows when it is opened
            return True
        if self._is_hidden(path):
            return False
        return bool(self.fs.isfile(path)) or (not self.fs.exists(path) and self.exists(path))

    def isdir(self, path: str) -> bool:
        """Return whether the path is a directory."""
        path = self._strip(path)
        return bool(self.fs.isdir(path)) and not self._is_hidden(path)

    def created(self, path: str) -> Any:
        """Return when the stored file was made."""
        return self.fs.created(self._strip(path))

    def modified(self, path: str) -> Any:
        """Return when the stored file was changed."""
        return self.fs.modified(self._strip(path))

    def invalidate_cache(self, path: str | None = None) -> None:
        """Let the other file system forget its listings."""
        self.fs.invalidate_cache(None if path is None else self._strip(path))

    # ---- contents ----

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        """Return the bytes from `start` to `end`; negative ones count from the end."""
        view = self.view(path)
        if view is None:
            if is_local_filesystem(self.fs):
                return bytes(super().cat_file(path, start=start, end=end, **options))
            return bytes(self.fs.cat_file(self._strip(path), start=start, end=end, **options))
        first, length = _range(start, end, view.size_bytes)
        return bytes(view.read_range(first, length))

    def cat_ranges(  # as fsspec calls it
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        **options: Any,
    ) -> list[Any]:
        """Return several ranges; those of one file are fetched side by side."""
        if max_gap is not None:
            raise UsageError("ranges are fetched as they are asked for: max_gap is not known here", hint="leave it out")
        asked = list(zip(paths, _each(starts, paths), _each(ends, paths), strict=True))
        found: list[Any] = [None] * len(asked)
        for path in dict.fromkeys(paths):
            places = [place for place, (other, _, _) in enumerate(asked) if other == path]
            try:
                parts = self._cat_many(path, [asked[place][1:] for place in places], options)
            except Exception as error:  # fsspec hands errors back in the place of bytes
                if on_error != "return":
                    raise
                parts = [error] * len(places)
            for place, part in zip(places, parts, strict=True):
                found[place] = part
        return found

    def _cat_many(self, path: str, ranges: list[tuple[Any, Any]], options: Mapping[str, Any]) -> list[Any]:
        view = self.view(path)
        if view is None and is_local_filesystem(self.fs):
            return [self.cat_file(path, start=start, end=end) for start, end in ranges]
        if view is None:
            starts, ends = [start for start, _ in ranges], [end for _, end in ranges]
            stored = self._strip(path)
            return list(self.fs.cat_ranges([stored] * len(ranges), starts, ends, on_error="raise", **options))
        wanted = [_range(start, end, view.size_bytes) for start, end in ranges]
        return [bytes(data) for data in view.read_many(wanted)]

    def _open(self, path: str, mode: str = "rb", *, statistics: bool = True, **options: Any) -> Any:
        if mode != "rb":
            self._refuse()
        if path in self._listed_files:
            info, file, view = self._viewed(path, statistics=statistics)
        else:
            info, file = self._look(path)
            view = self._views.view(file, statistics=statistics) if info.get("type") != DIRECTORY else None
        if view is None and is_local_filesystem(self.fs) and info.get("type") != DIRECTORY:
            return LocalFile(file.place, info)
        if view is None:
            known = {name: value for name, value in options.items() if name != "autocommit" and value is not None}
            return self.fs.open(path, mode, **known)
        info["size"] = view.size_bytes
        self._views.use(view)
        return ViewFile(view, info, on_close=self._views.leave)

    def _look(self, path: str, options: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], StoredFile]:
        """Return what the storage says about a path, or about the signed file that a run has staged for it."""
        try:
            info = dict(self.fs.info(path, **(options or {})))
        except FileNotFoundError:
            file = self._views.find_elsewhere(path)
            if file is None:
                raise
            return {**self.fs.info(file.place), "name": path}, file
        return info, self._stored(info, path)

    def _stored(self, info: Mapping[str, Any], path: str) -> StoredFile:
        if info.get("type") == OTHER:  # opening a named pipe waits for whoever writes to it
            raise NoRegularFileError(f"{path} is not a regular file")
        return StoredFile(self.fs, path, size_of(info, path), fingerprint_of(info))

    def _listed(self, info: Mapping[str, Any]) -> dict[str, Any]:
        listed = dict(info)
        if listed.get("type") == "file" and isinstance(listed.get("size"), int):
            known = self._views.known(self._stored(listed, str(listed["name"])))
            if known is not None and known[0] is not None:
                listed["size"] = known[0].size_bytes
        return listed

    def _strip(self, path: Any) -> Any:
        if isinstance(path, list):
            return [self._strip(each) for each in path]
        text = str(fsspec.utils.stringify_path(path))
        for prefix in (f"{_PROTOCOL}://", f"{_PROTOCOL}::"):
            text = text.removeprefix(prefix)
        return self.fs._strip_protocol(text)

    # ---- what a read-only file system refuses ----

    def _refuse(self, *_paths: object, **_options: object) -> NoReturn:
        raise UnsupportedError(
            "the pipecrypt file system is read-only",
            hint="write encrypted files with pipecrypt encrypt, pipecrypt.encrypt or pipecrypt.ParquetWriter",
        )

    mkdir = makedirs = rmdir = rm = rm_file = _rm = cp_file = copy = mv = move = rename = _refuse
    pipe = pipe_file = put = put_file = upload = touch = write_bytes = write_text = _refuse


def _range(start: int | None, end: int | None, size: int) -> tuple[int, int]:
    first, last, _ = slice(start, end).indices(size)
    return first, max(0, last - first)


def _each(bounds: Any, paths: Sequence[str]) -> list[Any]:
    return list(bounds) if isinstance(bounds, Sequence) else [bounds] * len(paths)


fsspec.register_implementation(_PROTOCOL, PipecryptFileSystem, clobber=True)
