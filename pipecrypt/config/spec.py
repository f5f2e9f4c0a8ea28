"""From a checked configuration to what a run takes.

This is the one place where the names of keys are looked up: everything below sees key references only. Relative paths
start from the directory of the configuration, wherever pipecrypt is started: those of local sources, sinks and, by
keys/reference, of files that key references name. URLs of other storages are taken as they are.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pipecrypt.config.document import Problem, ValuePath, config_error
from pipecrypt.config.load import LoadedConfig
from pipecrypt.errors import AccessError, ConfigError, KeyReferenceError, PolicyError, SourceNotFoundError, UsageError
from pipecrypt.keys.reference import anchored_reference, parse_key_reference
from pipecrypt.runs.spec.options import ExecutorKind, OnSourceChange, Reading, RunOptions
from pipecrypt.runs.spec.policy import Policy, listed_signing_keys, make_signing_options
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.location import Location
from pipecrypt.store.patterns import has_glob

__all__ = ["build_spec", "hints_about_paths"]


_log: Final = logging.getLogger(__name__)


@contextmanager
def hints_about_paths(loaded: LoadedConfig) -> Iterator[None]:
    """Where a path of the configuration leads nowhere, but would from the current directory, say so.

    An error's hint does, and where nothing else would, because a sink need not exist, a warning.
    """
    try:
        if hint := _elsewhere(loaded, loaded.model.sink.url):
            _log.warning("%s", hint)
        yield
    except (SourceNotFoundError, AccessError) as error:
        places = [loaded.model.source.url, *map(_path_of, _references(loaded))]
        hint = next((text for place in places if (text := _elsewhere(loaded, place))), None)
        if hint:
            error.add_hint(hint)
        raise


def _elsewhere(loaded: LoadedConfig, written: str | None) -> str | None:
    """Return what to say about a path that is there from the current directory, and not from the configuration's."""
    if written is None:
        return None
    location = Location(written)
    meant = location.anchored(loaded.directory)
    if meant == location or _is_there(meant) or not _is_there(location):
        return None
    return (
        f"relative paths in {loaded.document.name} start from its own directory, {loaded.directory}: "
        f"{written} exists in the current directory, {os.getcwd()}, which is another one"
    )


def _is_there(location: Location) -> bool:
    path = location.local_path
    while has_glob(path) and not os.path.lexists(path):
        path = os.path.dirname(path) or "."
    return os.path.lexists(path)


def _references(loaded: LoadedConfig) -> tuple[str, ...]:
    sign = loaded.model.sign
    return (*loaded.model.keys.values(), *(() if sign is None else sign.keys))


def _path_of(reference: str) -> str | None:
    if anchored_reference(reference, "/") == reference:
        return None
    try:
        return parse_key_reference(reference).location
    except KeyReferenceError:
        return None


def build_spec(
    loaded: LoadedConfig,
    *,
    overwrite: bool = False,
    workers: int | None = None,
    resumes: bool = False,
    accepts_future: bool = False,
) -> EncryptSpec:
    """Return what the configuration asks for; nothing is opened.

    Args:
        loaded: the configuration.
        overwrite: replace what the sink holds.
        workers: instead of `run.workers`.
        resumes: continue the run that was not finished.
        accepts_future: follow a signed version of a signer whose clock was ahead.

    Raises:
        ConfigError: the policy contradicts itself, or a URL cannot be one.
        UsageError: what the sink is does not go with the rest.
    """
    return EncryptSpec(
        source=_location(loaded, "source"),
        sink=_location(loaded, "sink"),
        policy=_policy(loaded),
        reading=_reading(loaded),
        max_file_bytes=loaded.model.sink.max_file_bytes,
        overwrite=overwrite,
        workers=loaded.model.run.workers if workers is None else workers,
        run=_run_options(loaded, resumes=resumes, accepts_future=accepts_future),
        known_keys=tuple(loaded.key_reference(name) for name in loaded.model.keys),
        key_spellings=loaded.key_spellings(),
    )


def _run_options(loaded: LoadedConfig, *, resumes: bool, accepts_future: bool) -> RunOptions:
    run = loaded.model.run
    try:
        return RunOptions(
            keeps_journal=True,
            resumes=resumes,
            on_source_change=OnSourceChange(run.on_source_change),
            split_bytes=run.split_bytes,
            executor=ExecutorKind(run.executor),
            address=run.address,
            attempts=run.attempts,
            worker_wait_seconds=run.worker_wait_seconds,
            is_only_writer=run.only_writer,
            accepts_future_statement=accepts_future,
        )
    except UsageError as error:
        raise _at(loaded, ("run",), error) from None


def _location(loaded: LoadedConfig, name: str) -> Location:
    model = loaded.model.source if name == "source" else loaded.model.sink
    try:
        return Location(model.url, model.options).anchored(loaded.directory)
    except UsageError as error:
        raise _at(loaded, (name, "url"), error) from None


def _reading(loaded: LoadedConfig) -> Reading:
    source = loaded.model.source
    csv = source.csv
    try:
        if None not in {source.encoding, csv.encoding} and source.encoding != csv.encoding:
            raise UsageError("source.encoding says something else", hint="leave out one of the two encodings")
        return Reading(
            format=source.format,
            delimiter=csv.delimiter,
            header=csv.header,
            names=csv.names,
            quote=csv.quote,
            null_values=csv.null_values,
            types=source.types,
            encoding=csv.encoding if source.encoding is None else source.encoding,
            decimal_point=csv.decimal_point,
            on_bad_rows=source.on_bad_rows,
        )
    except UsageError as error:
        raise _at(loaded, ("source", "csv"), error) from None


def _signing(loaded: LoadedConfig) -> dict[str, Any]:
    sign = loaded.model.sign
    if sign is None:
        return {}
    try:
        keys, validity = listed_signing_keys(loaded.signing_keys()), sign.validity()
        make_signing_options(keys, sign.digest, validity)
    except UsageError as error:
        raise _at(loaded, ("sign",), error) from None
    return {"sign": keys, "digest": sign.digest, "valid_for": validity}


def _policy(loaded: LoadedConfig) -> Policy:
    encrypt, signing = loaded.model.encrypt, _signing(loaded)
    try:
        policy = Policy(
            columns=_columns(loaded),
            optional=_optional(loaded),
            default=_reference(loaded, encrypt.default),
            unlisted=encrypt.unlisted,
            clear_metadata=encrypt.clear_metadata,
            footer=encrypt.footer,
            data_keys=encrypt.data_keys,
            footer_key=_reference(loaded, encrypt.footer_key),
            uniform=encrypt.uniform,
            bind_path=encrypt.bind_path,
            mode=encrypt.mode,
            also=[loaded.key_reference(name) for name in encrypt.also],
            compression=encrypt.compression,
            **_given(batch_rows=encrypt.batch_rows, chunk_bytes=encrypt.chunk_bytes),
            **signing,
        )
        policy.engine_policy()
    except UsageError as error:
        raise _at(loaded, ("encrypt",), error) from None
    return policy


def _given(**options: int | None) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _columns(loaded: LoadedConfig) -> dict[str, str]:
    """Return the key reference of each pattern, refusing one pattern under two keys."""
    columns: dict[str, str] = {}
    for index, entry in enumerate(loaded.model.encrypt.columns):
        reference = loaded.key_reference(entry.key)
        for item, pattern in enumerate(entry.match):
            if columns.setdefault(pattern, reference) != reference:
                path: ValuePath = ("encrypt", "columns", index, "match", item)
                problem = PolicyError(f"{pattern!r} stands under two keys", hint="remove one of the two")
                raise _at(loaded, path, problem)
    return columns


def _optional(loaded: LoadedConfig) -> list[str]:
    """Return the patterns that no entry requires."""
    entries = loaded.model.encrypt.columns
    required = {pattern for entry in entries if not entry.optional for pattern in entry.match}
    return [pattern for entry in entries for pattern in entry.match if pattern not in required]


def _reference(loaded: LoadedConfig, name: str | None) -> str | None:
    return None if name is None else loaded.key_reference(name)


def _at(loaded: LoadedConfig, path: ValuePath, error: UsageError) -> ConfigError:
    position = loaded.document.value_position(path)
    return config_error(loaded.document.name, [Problem(position, error.message, error.hint)])
