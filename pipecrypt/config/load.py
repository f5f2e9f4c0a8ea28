"""From a YAML file to a checked configuration, and from that to what a run takes.

The steps: bytes -> values with positions, variables replaced (document) -> the models (model) -> the names of keys
looked up and the key references parsed -> the spec. No key is opened and no storage is touched. This is the one place
where the names of keys are looked up: everything below sees key references only. Relative paths start from the
directory of the configuration, wherever pipecrypt is started: those of local sources, sinks and, by keys/reference, of
files that key references name. URLs of other storages are taken as they are.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipecrypt.config.document import (
    MAX_CONFIG_BYTES,
    Problem,
    Value,
    ValuePath,
    YAMLDocument,
    config_error,
    nearest_name,
    parse_yaml,
)
from pipecrypt.config.model import (
    ColumnsModel,
    ConfigModel,
    EncryptModel,
    RunModel,
    SignModel,
    SinkModel,
    SourceModel,
)
from pipecrypt.errors import AccessError, ConfigError, KeyReferenceError, PolicyError, SourceNotFoundError, UsageError
from pipecrypt.keys.reference import anchored_reference, parse_key_reference
from pipecrypt.keys.service import check_key_reference
from pipecrypt.runs.spec.options import ExecutorKind, OnSourceChange, Reading, RunOptions
from pipecrypt.runs.spec.policy import Policy, listed_signing_keys, make_signing_options
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.location import Location, has_glob

__all__ = ["LoadedConfig", "build_spec", "hints_about_paths", "load_config"]

_log: Final = logging.getLogger(__name__)
_MODELS: dict[ValuePath, type[BaseModel]] = {
    (): ConfigModel,
    ("source",): SourceModel,
    ("sink",): SinkModel,
    ("encrypt",): EncryptModel,
    ("encrypt", "columns"): ColumnsModel,
    ("sign",): SignModel,
    ("run",): RunModel,
}
_MUST_BE = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "model_attributes_type": "a mapping",
    "model_type": "a mapping",
    "string_type": "text",
    "tuple_type": "a list",
}
_EMPTY_HINT = "write a value, or remove the line"
_TEXT_OR_LIST = "text or a list of text"


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration whose every name and key reference is known to be right.

    Args:
        model: the values.
        document: where each of them stands, for errors that come later.
        directory: what relative paths start from: the configuration's own, absolute, links resolved.
    """

    model: ConfigModel
    document: YAMLDocument
    directory: str

    def key_reference(self, name: str) -> str:
        """Return the key reference that a name under `keys` stands for, its path absolute."""
        return anchored_reference(self.model.keys[name], self.directory)

    def problem(self, path: ValuePath, text: str, hint: str | None = None) -> Problem:
        """Return something that is wrong with the value at a path."""
        return Problem(self.document.value_position(_as_written(path, self.document)), text, hint)

    @contextmanager
    def errors_at(self, *path: str | int) -> Iterator[None]:
        """Let errors about the value at a path name its place in the file."""
        try:
            yield
        except UsageError as error:
            problem = self.problem(path, error.message, error.hint)
            raise config_error(self.document.name, [problem]) from None

    def key_spellings(self) -> dict[str, str]:
        """Return how the key references under `keys`, and what stands before their `#`, are written there."""
        spelled = {self.key_reference(name): text for name, text in self.model.keys.items()}
        places = {anchored.partition("#")[0]: text.partition("#")[0] for anchored, text in spelled.items()}
        return places | spelled


def load_config(path: str | os.PathLike[str], environ: Mapping[str, str]) -> LoadedConfig:
    """Read and check the configuration at `path`.

    Args:
        path: a local file.
        environ: values for `${VAR}`.

    Raises:
        ConfigError: anything in it is wrong; the message names file, line and column of every problem found.
    """
    name = os.fspath(path)
    document = parse_yaml(_read(name), name, environ)
    empty = {
        path: Problem(document.value_position(path), f"{_dotted(path)} must be filled in", _EMPTY_HINT)
        for path in _empty_values(document.root, ())
    }
    try:
        model = ConfigModel.model_validate(document.root)
    except ValidationError as error:
        known = {problem.position for problem in empty.values()}
        others = _problems(error.errors(include_url=False), document)
        raise config_error(name, [*empty.values(), *(each for each in others if each.position not in known)]) from None
    if empty:
        raise config_error(name, empty.values())
    loaded = LoadedConfig(model, document, os.path.realpath(os.path.dirname(name) or "."))
    if problems := list(_bad_names(loaded)):
        raise config_error(name, problems)
    return loaded


def _read(name: str) -> bytes:
    try:
        with Path(name).open("rb") as file:
            return file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        hint = "pipecrypt init writes a configuration to begin with"
        raise ConfigError(f"no configuration file {name}", hint=hint) from None
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise ConfigError(f"cannot read {name}: {reason}", hint="check the path and its permissions") from None


def _empty_values(value: Value, path: ValuePath) -> Iterator[ValuePath]:
    """Yield where nothing stands: a line that was half edited must not take protection away. fsspec may want nulls."""
    if value is None:
        yield path
    elif isinstance(value, dict):
        for name, each in value.items():
            if name != "options" or len(path) != 1:
                yield from _empty_values(each, (*path, name))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _empty_values(each, (*path, index))


def _problems(errors: list[ErrorDetails], document: YAMLDocument) -> list[Problem]:
    # pydantic calls a list too short when its items are wrong; only the items are worth telling.
    parents = {error["loc"][:length] for error in errors for length in range(len(error["loc"]))}
    return [
        _problem(error, document) for error in errors if error["type"] != "too_short" or error["loc"] not in parents
    ]


def _problem(error: ErrorDetails, document: YAMLDocument) -> Problem:
    path, kind = _as_written(error["loc"], document), error["type"]
    if kind == "extra_forbidden":
        taken = {name[-1] for name in document.names if name[:-1] == path[:-1]}
        hint = nearest_name(str(path[-1]), _names_at(path[:-1]), taken)
        return Problem(document.name_position(path), f"unknown key {str(path[-1])!r}{_inside(path[:-1])}", hint)
    if kind == "missing":
        text = f"{_dotted(path[:-1]) or 'the configuration'} has no {str(path[-1])!r}"
        return Problem(document.value_position(path[:-1]), text, f"add `{path[-1]}:`")
    while path and path not in document.values:
        path = path[:-1]
    if kind == "literal_error":
        # The value is named because it can only be a misspelt word: no such field holds a secret.
        text = f"{_dotted(path)} cannot be {error['input']!r}"
        return Problem(document.value_position(path), text, _nearest_choice(error))
    return Problem(document.value_position(path), f"{_dotted(path)} must be {_must_be(kind, path, error)}")


def _must_be(kind: str, path: ValuePath, error: ErrorDetails) -> str:
    context: dict[str, Any] = error.get("ctx", {})
    if "match" in path and kind in {"tuple_type", "string_type"}:
        return _TEXT_OR_LIST
    if kind in {"string_too_short", "too_short"}:
        return "filled in"
    if kind == "greater_than_equal":
        return f"at least {context['ge']}"
    if kind == "less_than_equal":
        return f"at most {context['le']}"
    if path == ("sign",) and kind == "model_type":
        return "a key, a list of keys, or a mapping"
    return _MUST_BE.get(kind, error["msg"].lower().removeprefix("input should be "))


def _nearest_choice(error: ErrorDetails) -> str:
    choices = str(error.get("ctx", {}).get("expected", "")).replace(" or ", ", ").replace("'", "")
    return nearest_name(str(error["input"]), choices.split(", "))


def _names_at(path: ValuePath) -> tuple[str, ...]:
    model = _MODELS.get(tuple(part for part in path if isinstance(part, str)))
    return tuple(model.model_fields) if model else ()


def _bad_names(loaded: LoadedConfig) -> Iterator[Problem]:
    """Yield what is wrong with names of keys, with key references, and with how long a signature is valid."""
    encrypt, sign, names = loaded.model.encrypt, loaded.model.sign, loaded.model.keys
    used: list[tuple[ValuePath, str | None]] = [
        (("encrypt", "default"), encrypt.default),
        (("encrypt", "footer_key"), encrypt.footer_key),
        *((("encrypt", "also", index), name) for index, name in enumerate(encrypt.also)),
        *((("encrypt", "columns", index, "key"), entry.key) for index, entry in enumerate(encrypt.columns)),
        *((("sign", "keys", index), name) for index, name in enumerate(sign.keys if sign else ())),
    ]
    references: dict[ValuePath, str] = {("keys", name): reference for name, reference in names.items()}
    for path, name in used:
        if name is None or name in names:
            continue
        if path[0] == "sign" and ":" in name:
            references[path] = name
        elif "://" in name:
            hint = "give the key reference a name under `keys` and use that name here"
            yield loaded.problem(path, f"{_dotted(path)} holds a key reference, not a name under `keys`", hint)
        else:
            yield loaded.problem(path, f"no key {name!r} under `keys`", nearest_name(name, names))
    for path, reference in references.items():
        try:
            check_key_reference(reference)
        except KeyReferenceError as error:
            yield loaded.problem(path, error.message, error.hint)
    try:
        _ = sign and sign.validity()
    except UsageError as error:
        yield loaded.problem(("sign", "valid_for"), error.message, error.hint)


def _as_written(path: ValuePath, document: YAMLDocument) -> ValuePath:
    """Return the path in the file of a value that may stand there in a shorter form: `sign: name` or `sign: [name]`."""
    if path[:2] == ("sign", "keys") and not isinstance(document.root.get("sign"), dict):
        return ("sign", *path[2:])
    return path


def _dotted(path: ValuePath) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part or repr(part)}"
    return text.removeprefix(".")


def _inside(path: ValuePath) -> str:
    return f" in {_dotted(path)}" if path else ""


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
        sign = loaded.model.sign
        references = (*loaded.model.keys.values(), *(sign.keys if sign else ()))
        places = [loaded.model.source.url, *map(_path_of, references)]
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
    accept_future_statement: bool = False,
) -> EncryptSpec:
    """Return what the configuration asks for; nothing is opened.

    Args:
        loaded: the configuration.
        overwrite: replace what the sink holds.
        workers: instead of `run.workers`.
        resumes: continue the run that was not finished.
        accept_future_statement: follow a signed version of a signer whose clock was ahead.

    Raises:
        ConfigError: the policy contradicts itself, or a URL cannot be one.
        UsageError: what the sink is does not go with the rest.
    """
    model = loaded.model
    with loaded.errors_at("source", "url"):
        source = Location(model.source.url, model.source.options).anchored(loaded.directory)
    with loaded.errors_at("sink", "url"):
        sink = Location(model.sink.url, model.sink.options).anchored(loaded.directory)
    with loaded.errors_at("run"):
        run = RunOptions(
            keeps_journal=True,
            resumes=resumes,
            on_source_change=OnSourceChange(model.run.on_source_change),
            split_bytes=model.run.split_bytes,
            files_in_flight=model.run.files_in_flight,
            memory_bytes=model.run.memory,
            executor=ExecutorKind(model.run.executor),
            address=model.run.address,
            attempts=model.run.attempts,
            worker_wait_seconds=model.run.worker_wait_seconds,
            is_only_writer=model.run.only_writer,
            accept_future_statement=accept_future_statement,
        )
    return EncryptSpec(
        source=source,
        sink=sink,
        policy=_policy(loaded),
        reading=_reading(loaded),
        max_file_bytes=model.sink.max_file_bytes,
        overwrite=overwrite,
        workers=model.run.workers if workers is None else workers,
        run=run,
        known_keys=tuple(loaded.key_reference(name) for name in model.keys),
        key_spellings=loaded.key_spellings(),
    )


def _reading(loaded: LoadedConfig) -> Reading:
    source = loaded.model.source
    csv = source.csv.model_dump()
    with loaded.errors_at("source", "csv"):
        if None not in {source.encoding, csv["encoding"]} and source.encoding != csv["encoding"]:
            raise UsageError("source.encoding says something else", hint="leave out one of the two encodings")
        csv["encoding"] = csv["encoding"] if source.encoding is None else source.encoding
        return Reading(format=source.format, types=source.types, on_bad_rows=source.on_bad_rows, **csv)


def _policy(loaded: LoadedConfig) -> Policy:
    encrypt, signing = loaded.model.encrypt, _signing(loaded)
    columns, optional = _columns(loaded)
    with loaded.errors_at("encrypt"):
        return Policy(
            columns=columns,
            optional=optional,
            default=None if encrypt.default is None else loaded.key_reference(encrypt.default),
            footer_key=None if encrypt.footer_key is None else loaded.key_reference(encrypt.footer_key),
            also=[loaded.key_reference(name) for name in encrypt.also],
            # All else is called the same there.
            **encrypt.model_dump(exclude={"columns", "default", "footer_key", "also"}, exclude_none=True),
            **signing,
        )


def _signing(loaded: LoadedConfig) -> dict[str, Any]:
    """Return what a policy takes about signatures."""
    sign = loaded.model.sign
    if sign is None:
        return {}
    references = tuple(anchored_reference(loaded.model.keys.get(each, each), loaded.directory) for each in sign.keys)
    with loaded.errors_at("sign"):
        keys, validity = listed_signing_keys(references), sign.validity()
        make_signing_options(keys, sign.digest, validity)
    return {"sign": keys, "digest": sign.digest, "valid_for": validity}


def _columns(loaded: LoadedConfig) -> tuple[dict[str, str], list[str]]:
    """Return the key reference of each pattern, refusing one under two keys, and those that no entry requires."""
    columns: dict[str, str] = {}
    entries = loaded.model.encrypt.columns
    for index, entry in enumerate(entries):
        reference = loaded.key_reference(entry.key)
        for item, pattern in enumerate(entry.match):
            with loaded.errors_at("encrypt", "columns", index, "match", item):
                if columns.setdefault(pattern, reference) != reference:
                    raise PolicyError(f"{pattern!r} stands under two keys", hint="remove one of the two")
    required = {pattern for entry in entries if not entry.optional for pattern in entry.match}
    return columns, [pattern for entry in entries for pattern in entry.match if pattern not in required]
