"""The shape of a configuration, as pydantic models. Reading YAML is left to load, acting on it to build.

The docstrings and descriptions here are what `pipecrypt config schema` prints.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = ["ColumnsModel", "ConfigModel", "EncryptModel", "RunModel", "SinkModel", "SourceModel"]

MAX_WORKERS = 256


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _no_boolean(value: object) -> object:
    # pydantic would read `workers: true` as 1; None is no whole number.
    return None if isinstance(value, bool | float) else value


_Text = Annotated[str, Field(min_length=1)]
_Patterns = Annotated[
    tuple[_Text, ...],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=_Text | Annotated[list[_Text], Field(min_length=1)]),
]
_Workers = Annotated[int, Field(ge=1, le=MAX_WORKERS), BeforeValidator(_no_boolean)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class SourceModel(_Model):
    """Where the plaintext Parquet files are."""

    url: _Text = Field(description="a file, a directory or a glob; a local path or any fsspec URL")
    options: dict[str, Any] = Field(default={}, description="storage options for fsspec")


class SinkModel(_Model):
    """Where the encrypted files go."""

    url: _Text = Field(description="a directory, or a file name where the source is one file")
    options: dict[str, Any] = Field(default={}, description="storage options for fsspec")


class ColumnsModel(_Model):
    """Columns that share one master key."""

    match: _Patterns = Field(description="names, nested paths (customer.email), roots (customer) or globs (card_*)")
    key: _Text = Field(description="one of the names under `keys`")


class EncryptModel(_Model):
    """What is encrypted, and how."""

    mode: Literal["columns"] = Field(default="columns", description="encrypt columns of tables")
    columns: tuple[ColumnsModel, ...] = Field(default=(), description="unlisted columns take `default`, or stay plain")
    default: _Text | None = Field(default=None, description="name of the key for all columns that no entry lists")
    footer: Literal["plaintext", "encrypted"] = Field(
        default="plaintext", description="plaintext: readers without keys can read the columns left in plaintext"
    )
    data_keys: Literal["batch", "file"] = Field(
        default="batch", description="one data key per column and row group, or (for Spark) per column and file"
    )
    footer_key: _Text | None = Field(default=None, description="name of the footer's key, if it has one of its own")
    uniform: bool = Field(default=False, description="all columns under the footer's data key (for DuckDB)")
    bind_path: bool = Field(default=True, description="bind dataset id and path into every page (not for DuckDB)")


class RunModel(_Model):
    """How the run goes about it."""

    workers: _Workers = Field(default=1, description="files encrypted at once, each in a process of its own")


class ConfigModel(_Model):
    """What `pipecrypt run` reads."""

    model_config = ConfigDict(title="pipecrypt configuration")

    source: SourceModel
    sink: SinkModel
    encrypt: EncryptModel
    keys: dict[_Text, _Text] = Field(min_length=1, description="names for key references such as keystore://k.json#pii")
    run: RunModel = RunModel()
