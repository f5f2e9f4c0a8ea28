"""What is done with a configuration: run it, or check it and tell what it would do."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pipecrypt.config.document import Problem, config_error
from pipecrypt.config.load import LoadedConfig, load_config
from pipecrypt.config.spec import build_request, hints_about_paths
from pipecrypt.errors import StorageAccessError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.runs.plan.preview import preview_sources
from pipecrypt.runs.plan.saved_plan import read_saved_plan
from pipecrypt.runs.report.events import Event, Summary
from pipecrypt.runs.run import run
from pipecrypt.runs.task import SourceShape
from pipecrypt.runs.workers.mapped import MapTasks
from pipecrypt.store.filesystem import open_filesystem
from pipecrypt.store.location import Location

__all__ = ["ConfigPlan", "PlannedColumn", "PlannedSource", "plan_config", "run_config"]


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
        on_event: told about progress.
        map_tasks: calls the tasks in processes of your own, such as those of Ray or Spark: see docs/executors.md.
        plan: a saved plan, of `pipecrypt plan --out`: only its tasks are done, and all of them as they were planned.
        accept_future_statement: go on with a dataset whose last signer's clock was ahead; its time is not undercut.

    Raises:
        ConfigError: the configuration is wrong; names file, line and column.
        PipecryptError: the run failed; see `pipecrypt.errors`.
    """
    loaded = load_config(path, os.environ if environ is None else environ)
    request = build_request(
        loaded, overwrite=overwrite, workers=workers, resumes=resume, accepts_future=accept_future_statement
    )
    if plan is not None:
        saved = read_saved_plan(plan)
        saved.check_sink(request.sink)
        request = replace(request, only_tasks=saved.task_ids)
    with hints_about_paths(loaded):
        return run(
            request,
            credentials=Credentials.from_environment() if credentials is None else credentials,
            on_event=_ignore if on_event is None else on_event,
            map_tasks=map_tasks,
        )


def _ignore(event: Event) -> None:
    del event


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
    sources: tuple[PlannedSource, ...] | None
    columns: tuple[PlannedColumn, ...] | None
    delimiter: str | None


def plan_config(loaded: LoadedConfig, *, offline: bool = False) -> ConfigPlan:
    """Return what a run of the configuration would do.

    Args:
        loaded: the configuration.
        offline: look at the configuration only, at no key, no source and no sink.

    Raises:
        ConfigError: the configuration contradicts itself, or its sink cannot be made.
        AccessError: a key is missing, as far as that can be seen without a secret; or a secret at hand is wrong.
        DamagedKeystoreError: a keystore was changed by somebody without its secret.
        SourceNotFoundError: there is no source.
        ColumnNotFoundError: the first source has no such column.
    """
    request = build_request(loaded)
    policy = request.policy.engine_policy()
    signing = request.policy.signing
    validity = None if signing is None else signing.valid_for
    sources, columns, delimiter = None, None, None
    if not offline:
        with hints_about_paths(loaded):
            _check_sink(loaded, request.sink)
            preview = preview_sources(request)
            sources = tuple(PlannedSource(file.relative_path, file.size_bytes) for file in preview.sources)
            columns, delimiter = _columns(loaded, preview.first), preview.first.delimiter
    return ConfigPlan(
        config=loaded.document.name,
        source=request.source.display,
        sink=request.sink.display,
        mode=request.policy.mode,
        footer=policy.footer.value,
        footer_key_reference=policy.footer_key_reference(),
        data_keys=policy.data_keys.value,
        uniform=policy.uniform,
        workers=request.workers,
        sign=() if signing is None else signing.key_references,
        digest=None if signing is None else signing.digest.value,
        valid_for_seconds=None if validity is None else int(validity.total_seconds()),
        sources=sources,
        columns=columns,
        delimiter=delimiter,
    )


def _check_sink(loaded: LoadedConfig, sink: Location) -> None:
    """Refuse a sink that cannot be made."""
    if sink.is_standard_stream:
        return
    if not sink.is_local:
        open_filesystem(sink)
        return
    place = os.path.abspath(sink.local_path)
    if not sink.names_directory and os.path.lexists(place):
        return
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        problem = Problem(
            loaded.document.value_position(("sink", "url")),
            f"the sink {sink.display} cannot be made: {place} is not a directory",
            "choose another sink, or move what is there away",
        )
        raise config_error(loaded.document.name, [problem])
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
