"""The shape of a configuration, as pydantic models, and the JSON Schema of it that editors read.

The docstrings and descriptions of the models are what `pipecrypt config schema` prints. An editor sees a file before
variables are replaced, so where a number, a boolean or a choice is due, the schema allows `${...}` too.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pipecrypt.runs.spec.options import (
    DEFAULT_ATTEMPTS,
    DEFAULT_WORKER_WAIT_SECONDS,
    MAX_ATTEMPTS,
    MAX_FILES_IN_FLIGHT,
)
from pipecrypt.runs.spec.policy import parse_validity

__all__ = [
    "CSVModel",
    "ColumnsModel",
    "ConfigModel",
    "EncryptModel",
    "RunModel",
    "SignModel",
    "SinkModel",
    "SourceModel",
    "config_schema",
]

MAX_WORKERS = 256
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_VARIABLE = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}"}
_NULL = {"type": "null"}  # pydantic adds it to what may be left out; loading refuses what is empty
_KEPT = ("title", "description", "default")


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _no_boolean(value: object) -> object:
    # pydantic would read `workers: true` as 1; and None is not a whole number.
    return None if isinstance(value, bool | float) else value


_Text = Annotated[str, Field(min_length=1)]
_Patterns = Annotated[
    tuple[_Text, ...],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=_Text | Annotated[list[_Text], Field(min_length=1)]),
]
_Count = Annotated[int, Field(ge=1), BeforeValidator(_no_boolean)]
_Workers = Annotated[int, Field(ge=1, le=MAX_WORKERS), BeforeValidator(_no_boolean)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class CSVModel(_Model):
    """The dialect of CSV; what is left out is found in each file's first rows, or follows from its extension."""

    delimiter: _Text | None = Field(default=None, description="one character; default: found in the first rows")
    header: bool | None = Field(default=None, description="whether the first line names the columns; default: true")
    names: tuple[_Text, ...] | None = Field(default=None, description="names of the columns, instead of a header's")
    quote: str | None = Field(default=None, description="one character; empty where quotes mean nothing")
    null_values: tuple[str, ...] | None = Field(default=None, description="texts that mean null")
    encoding: _Text | None = Field(default=None, description="the same as source.encoding")
    decimal_point: _Text | None = Field(default=None, description="one character; default: a point")


class SourceModel(_Model):
    """Where the plaintext is, and how files that are not Parquet are read."""

    url: _Text = Field(
        description="a file, a directory or a glob; a local path or any fsspec URL; - for standard input"
    )
    options: dict[str, Any] = Field(default={}, description="storage options for fsspec")
    format: Literal["parquet", "csv", "json", "arrow", "orc"] | None = Field(
        default=None, description="of all files; default: by each name"
    )
    encoding: _Text | None = Field(
        default=None, description="of CSV and JSON lines, such as latin-1, cp1252 or utf-16; default: utf-8"
    )
    csv: CSVModel = Field(default=CSVModel(), description="the dialect of CSV")
    types: dict[_Text, _Text] = Field(
        default={}, description="types of CSV and JSON columns by name, such as decimal128(12, 2); others are inferred"
    )
    on_bad_rows: Literal["fail", "skip"] = Field(
        default="fail", description="rows of CSV and JSON lines that do not fit: stop, or leave them out and count them"
    )


class SinkModel(_Model):
    """Where the encrypted files go."""

    url: _Text = Field(description="a directory, or a file name where the source is one file; - for standard output")
    options: dict[str, Any] = Field(default={}, description="storage options for fsspec")
    max_file_bytes: _Count | None = Field(
        default=None, description="begin another file at this size, for sources that are not Parquet already"
    )


class ColumnsModel(_Model):
    """Columns that share one master key."""

    match: _Patterns = Field(description="names, nested paths (customer.email), roots (customer) or globs (card_*)")
    key: _Text = Field(description="one of the names under `keys`")
    optional: bool = Field(default=False, description="whether files may lack them; else each file has all of them")


class EncryptModel(_Model):
    """What is encrypted, and how."""

    mode: Literal["columns", "chunks"] = Field(
        default="columns", description="columns of tables, or files of any kind as they are, in chunks of bytes"
    )
    columns: tuple[ColumnsModel, ...] = Field(default=(), description="which columns are under which key")
    default: _Text | None = Field(default=None, description="name of the key for all columns that no entry lists")
    unlisted: Literal["plaintext", "encrypt", "refuse"] | None = Field(
        default=None,
        description="what becomes of columns that no entry lists, where there is no default: they stay in plaintext, "
        "take the one key of all entries, or stop the run; without it, those stop it that earlier files do not have",
    )
    clear_metadata: Literal["strip", "drop", "refuse", "keep"] = Field(
        default="strip",
        description="key-value metadata about encrypted columns beside a plaintext footer: stripped from the "
        "entries of well-known writers, all other entries dropped too, the file refused, or all of it kept readable",
    )
    footer: Literal["plaintext", "encrypted"] = Field(
        default="plaintext", description="plaintext: readers without keys can read the columns left in plaintext"
    )
    data_keys: Literal["batch", "file"] = Field(
        default="batch", description="one data key per column and row group, or (for Spark) per column and file"
    )
    footer_key: _Text | None = Field(default=None, description="name of the footer's key, if it has one of its own")
    also: tuple[_Text, ...] = Field(
        default=(), description="names of further keys that shall open everything: other regions, partners, emergencies"
    )
    uniform: bool = Field(default=False, description="all columns under the footer's data key (for DuckDB)")
    bind_path: bool = Field(default=True, description="bind dataset id and path into every page (not for DuckDB)")
    batch_rows: _Count | None = Field(
        default=None, description="rows of a row group, for sources that are not Parquet already; default: 131072"
    )
    compression: Literal["zstd", "snappy", "none"] | None = Field(
        default=None, description="of their pages, default zstd; of chunks zstd or none, default none"
    )
    chunk_bytes: _Count | None = Field(default=None, description="size of a chunk; default: 1048576")


class SignModel(_Model):
    """How what the run writes is signed."""

    keys: _Patterns = Field(description="signing keys: names under `keys`, or key references; each signs")
    digest: Literal["sha256", "blake3"] = Field(
        default="sha256", description="of whole files; blake3 is faster and needs pipecrypt[blake3]"
    )
    valid_for: _Text | None = Field(default=None, description="until readers refuse it: 30d or 12h; default: for ever")

    def validity(self) -> timedelta | None:
        """Return how long the statement is valid.

        Raises:
            UsageError: the text is not a time span.
        """
        return None if self.valid_for is None else parse_validity(self.valid_for)


_Sign = Annotated[
    SignModel,
    BeforeValidator(
        lambda value: {"keys": value} if isinstance(value, str | list) else value,
        json_schema_input_type=_Text | Annotated[list[_Text], Field(min_length=1)] | SignModel,
    ),
]


class RunModel(_Model):
    """How the run goes about it."""

    workers: _Workers = Field(default=1, description="files encrypted at once, each in a process of its own")
    executor: Literal["local", "dask"] = Field(
        default="local", description="processes of this machine, or a Dask cluster (needs pipecrypt[dask])"
    )
    address: _Text | None = Field(default=None, description="of the Dask scheduler; default: a cluster of this machine")
    attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS), BeforeValidator(_no_boolean)] = Field(
        default=DEFAULT_ATTEMPTS, description="how often a file is tried whose worker process died"
    )
    worker_wait_seconds: _Count = Field(
        default=DEFAULT_WORKER_WAIT_SECONDS, description="how long a run waits while a Dask cluster has no worker"
    )
    on_source_change: Literal["fail", "replace"] = Field(
        default="fail", description="what to do about sources that changed, or are gone, since they were encrypted"
    )
    split_bytes: _Count | None = Field(
        default=None,
        description="cut Parquet sources of at least twice this size into tasks of about this size, by row groups",
    )
    files_in_flight: Annotated[int, Field(ge=1, le=MAX_FILES_IN_FLIGHT), BeforeValidator(_no_boolean)] | None = Field(
        default=None,
        description="files that each process is at work on at once; default: several where the store is not local",
    )
    memory: _Count | None = Field(
        default=None,
        description="bytes that files at work may take in all processes together; default: a quarter of the machine's",
    )
    only_writer: bool = Field(
        default=False,
        description="you vouch that nobody else writes to the sink, for storages that cannot exclude a second run",
    )


class ConfigModel(_Model):
    """What `pipecrypt run` reads."""

    model_config = ConfigDict(title="pipecrypt configuration")

    source: SourceModel
    sink: SinkModel
    encrypt: EncryptModel
    keys: dict[_Text, _Text] = Field(min_length=1, description="names for key references such as keystore://k.json#pii")
    sign: _Sign | None = Field(
        default=None,
        description="a name under `keys`, a key reference, or a list of them; a mapping says more; default: unsigned",
    )
    run: RunModel = RunModel()


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) that every valid configuration meets."""
    schema = _with_variables(ConfigModel.model_json_schema(mode="validation"))
    return {"$schema": _DIALECT, **schema}


def _with_variables(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_variables(child) for child in node if child != _NULL]
    if not isinstance(node, dict):
        return node
    if node.get("type") in {"integer", "number", "boolean"} or "enum" in node or "const" in node:
        rest = {name: value for name, value in node.items() if name not in _KEPT}
        return {name: node[name] for name in _KEPT if name in node} | {"anyOf": [rest, _VARIABLE]}
    return {name: _with_variables(child) for name, child in node.items()}
