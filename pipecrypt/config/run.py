"""What is done with a configuration: run it, show what a run would do, or check it.

All three begin with `_configured`: from the file to what a run takes, in one step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import overload

from pipecrypt.config.load import LoadedConfig, build_spec, hints_about_paths, load_config
from pipecrypt.errors import StorageAccessError, UsageError
from pipecrypt.keys.credentials import Credentials, given_credentials
from pipecrypt.runs.files import encrypt_spec
from pipecrypt.runs.plan.preview import PlanReport, check_keys, preview_sources, read_saved_plan, report_plan
from pipecrypt.runs.report.events import Event, Summary, ignore
from pipecrypt.runs.run import run
from pipecrypt.runs.spec.options import Reading
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.runs.task import SourceShape
from pipecrypt.runs.workers.remote import MapTasks
from pipecrypt.store.filesystem import open_filesystem
from pipecrypt.store.location import Location
from pipecrypt.store.open import open_store

__all__ = ["ConfigPlan", "PlannedColumn", "PlannedSource", "check_config", "plan", "run_config"]


def run_config(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    resume: bool = False,
    workers: int | None = None,
    credentials: Credentials | None = None,
    environ: Mapping[str, str] | None = None,
    on_event: Callable[[Event], None] | None = None,
    map_tasks: MapTasks | None = None,
    plan: str | os.PathLike[str] | None = None,
    accept_future_statement: bool = False,
) -> Summary:
    """Encrypt what the configuration at `path` names, and return the counts.

    Relative paths in the configuration start from its own directory.

    Args:
        path: the YAML file.
        overwrite: encrypt all sources again; otherwise those that an earlier run has done are left as they are.
        resume: continue the run that was not finished, if there is one.
        workers: instead of `run.workers`.
        credentials: what opens the keys; default: the environment of this process.
        environ: values for `${VAR}`; default: the environment of this process.
        on_event: called with each event of its progress.
        map_tasks: calls the tasks in processes of your own, such as those of Ray or Spark: see docs/executors.md.
        plan: a saved plan, of `pipecrypt plan --out`: only its tasks are done, and all of them as they were planned.
        accept_future_statement: go on with a dataset whose last signer's clock was ahead; its time is not undercut.

    Raises:
        ConfigError: the configuration is wrong; names file, line and column.
        PipecryptError: the run failed; see `pipecrypt.errors`.
    """
    with _configured(
        path,
        environ,
        overwrite=overwrite,
        resume=resume,
        workers=workers,
        accept_future_statement=accept_future_statement,
    ) as (_, spec):
        only_tasks = None if plan is None else read_saved_plan(plan, spec.sink)
        return run(
            replace(spec, only_tasks=only_tasks),
            credentials=given_credentials(credentials),
            on_event=ignore if on_event is None else on_event,
            map_tasks=map_tasks,
        )


@overload
def plan(
    config: str | os.PathLike[str],
    /,
    *,
    overwrite: bool = False,
    resume: bool = False,
    workers: int | None = None,
    accept_future_statement: bool = False,
    credentials: Credentials | None = None,
    environ: Mapping[str, str] | None = None,
) -> PlanReport: ...
@overload
def plan(
    source: str | os.PathLike[str],
    sink: str | os.PathLike[str],
    policy: Policy,
    /,
    *,
    reading: Reading | None = None,
    max_file_bytes: int | None = None,
    source_options: Mapping[str, object] | None = None,
    sink_options: Mapping[str, object] | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    accept_future_statement: bool = False,
    credentials: Credentials | None = None,
) -> PlanReport: ...
def plan(
    source: str | os.PathLike[str],
    sink: str | os.PathLike[str] | None = None,
    policy: Policy | None = None,
    /,
    *,
    reading: Reading | None = None,
    max_file_bytes: int | None = None,
    source_options: Mapping[str, object] | None = None,
    sink_options: Mapping[str, object] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    workers: int | None = None,
    accept_future_statement: bool = False,
    credentials: Credentials | None = None,
    environ: Mapping[str, str] | None = None,
) -> PlanReport:
    """Return what `pipecrypt.run(config)`, or `pipecrypt.encrypt(source, sink, policy)`, would do.

    No key is opened, and nothing is written to the sink. The result has the members of the document that `pipecrypt
    plan --json` prints.

    Args:
        source: a configuration; or, with `sink` and `policy`, a source as `encrypt` takes it.
        sink: as `encrypt` takes it.
        policy: what is encrypted under which key.
        reading: as `encrypt` takes it, and only with a source, as the next three are.
        max_file_bytes: likewise.
        source_options: likewise.
        sink_options: likewise.
        overwrite: as for the call that is planned.
        resume: as for `run`, and only with a configuration.
        workers: as for the call that is planned.
        accept_future_statement: as for the call that is planned.
        credentials: what authenticates keystores, where it holds their secret; nobody is asked. Default: the
            environment of this process.
        environ: values for `${VAR}` of a configuration; default: the environment of this process.

    Raises:
        ConfigError: the configuration is wrong; names file, line and column.
        AccessError: a key is missing, as far as that can be seen without a secret; or a secret at hand is wrong.
        SinkNotEmptyError: `encrypt` would refuse the sink.
        UsageError: the arguments go with another kind of call.
        PipecryptError: there is no source, or what is asked for contradicts itself.
    """
    of_source: dict[str, object] = {"reading": reading, "max_file_bytes": max_file_bytes}
    of_source |= {"source_options": source_options, "sink_options": sink_options}
    if sink is None and policy is None:
        _refuse_given(of_source, "a configuration says that itself: pass them with a source, a sink and a policy")
        with _configured(
            source,
            environ,
            overwrite=overwrite,
            resume=resume,
            workers=workers,
            accept_future_statement=accept_future_statement,
        ) as (_, spec):
            return report_plan(spec, credentials)
    if sink is None or policy is None:
        raise UsageError("a plan needs a sink and a policy", hint="write plan(source, sink, policy) or plan(config)")
    _refuse_given({"resume": resume or None, "environ": environ}, "only a configuration takes that")
    spec = encrypt_spec(
        source,
        sink,
        policy,
        reading=reading,
        max_file_bytes=max_file_bytes,
        source_options=source_options,
        sink_options=sink_options,
        overwrite=overwrite,
        workers=1 if workers is None else workers,
        accept_future_statement=accept_future_statement,
    )
    return report_plan(spec, credentials)


def _refuse_given(given: Mapping[str, object], hint: str) -> None:
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise UsageError(f"a plan of this kind takes no {names[0]}", hint=hint)


@contextmanager
def _configured(
    path: str | os.PathLike[str],
    environ: Mapping[str, str] | None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    workers: int | None = None,
    accept_future_statement: bool = False,
) -> Iterator[tuple[LoadedConfig, EncryptSpec]]:
    """Yield a configuration and what it asks for; errors about paths that lead nowhere get a hint."""
    loaded = load_config(path, os.environ if environ is None else environ)
    spec = build_spec(
        loaded, overwrite=overwrite, workers=workers, resumes=resume, accept_future_statement=accept_future_statement
    )
    with hints_about_paths(loaded):
        yield loaded, spec


@dataclass(frozen=True, slots=True)
class PlannedSource:
    """A file that a run would encrypt.

    Args:
        path: relative to the source.
        size_bytes: its size.
    """

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PlannedColumn:
    """A column of the first source.

    Args:
        path: dotted.
        key: the name under `keys`, or None where the column stays in plaintext.
        key_reference: what the name stands for.
        type: of the whole column, where the source is CSV or JSON: inferred, or given.
    """

    path: str
    key: str | None
    key_reference: str | None
    type: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigPlan:
    """What a configuration would do.

    Args:
        config: the file.
        source: its URL, without user names and passwords.
        sink: likewise.
        mode: `columns` or `chunks`.
        footer: `plaintext` or `encrypted`.
        footer_key_reference: the master key of the footer.
        data_keys: `batch` or `file`.
        uniform: whether all columns are under the footer's data key.
        workers: files encrypted at once.
        sign: key references of the signing keys; none where nothing is signed.
        digest: of files in the signed statement; None likewise.
        valid_for_seconds: how long the statement is valid; None for ever, or where there is none.
        sources: the files found; None where the source was not looked at.
        columns: the columns of the first of them; None likewise, and where files are encrypted in chunks.
        delimiter: of the first of them, where it is CSV: found, or given.
    """

    config: str
    source: str
    sink: str
    mode: str
    footer: str
    footer_key_reference: str
    data_keys: str
    uniform: bool
    workers: int
    sign: tuple[str, ...]
    digest: str | None
    valid_for_seconds: int | None
    sources: tuple[PlannedSource, ...] | None = None
    columns: tuple[PlannedColumn, ...] | None = None
    delimiter: str | None = None


def check_config(
    path: str | os.PathLike[str], *, offline: bool = False, environ: Mapping[str, str] | None = None
) -> ConfigPlan:
    """Return what a run of a configuration would do, from a look at its keys, its sink and its first source.

    No key is opened and nothing is written. Only the first source's columns are read: a run checks every file.

    Args:
        path: the YAML file.
        offline: look at the configuration only, at no key, no source and no sink.
        environ: values for `${VAR}`; default: the environment of this process.

    Raises:
        ConfigError: the configuration contradicts itself, or its sink cannot be made.
        AccessError: a key is missing, as far as that can be seen without a secret; or a secret at hand is wrong.
        DamagedKeystoreError: a keystore was changed by somebody without its secret.
        SourceNotFoundError: there is no source.
        ColumnNotFoundError: the first source has no such column.
    """
    if offline:
        loaded = load_config(path, os.environ if environ is None else environ)
        return _described(loaded, build_spec(loaded))
    with _configured(path, environ) as (loaded, spec):
        check_keys(spec.policy, given_credentials(None))
        _check_sink(loaded, spec.sink)
        files, first = preview_sources(spec)
        columns, delimiter = _columns(loaded, first), first.delimiter
    sources = tuple(PlannedSource(file.relative_path, file.size_bytes) for file in files)
    return replace(_described(loaded, spec), sources=sources, columns=columns, delimiter=delimiter)


def _described(loaded: LoadedConfig, spec: EncryptSpec) -> ConfigPlan:
    policy, signing = spec.engine_policy, spec.policy.signing
    validity = None if signing is None else signing.valid_for
    return ConfigPlan(
        config=loaded.document.name,
        source=spec.source.display,
        sink=spec.sink.display,
        mode=spec.policy.mode,
        footer=policy.footer.value,
        footer_key_reference=policy.footer_key_reference(),
        data_keys=policy.data_keys.value,
        uniform=policy.uniform,
        workers=spec.workers,
        sign=() if signing is None else signing.key_references,
        digest=None if signing is None else signing.digest.value,
        valid_for_seconds=None if validity is None else int(validity.total_seconds()),
    )


def _check_sink(loaded: LoadedConfig, sink: Location) -> None:
    """Refuse a sink that cannot be made."""
    if sink.is_standard_stream:
        return
    if open_store(sink).is_remote:
        open_filesystem(sink)
        return
    place = os.path.abspath(sink.local_path)
    if not sink.names_directory and os.path.lexists(place):
        return
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        hint = "choose another sink, or move what is there away"
        with loaded.errors_at("sink", "url"):
            raise UsageError(f"the sink {sink.display} cannot be made: {place} is not a directory", hint=hint)
    if not os.access(place, os.W_OK | os.X_OK):
        raise StorageAccessError(f"the sink {sink.display} cannot be written: {place} does not permit it")


def _columns(loaded: LoadedConfig, shape: SourceShape) -> tuple[PlannedColumn, ...] | None:
    """Return the columns of a source, with the names of their keys."""
    if shape.columns is None:
        return None
    names = {loaded.key_reference(name): name for name in loaded.model.keys}
    types = dict(shape.types)
    return tuple(
        PlannedColumn(leaf.dotted, None if key is None else names[key], key, types.get(leaf.path[0]))
        for leaf, key in shape.columns
    )
