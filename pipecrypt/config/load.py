"""From a YAML file to a checked configuration. The next step is spec.

The steps: bytes -> values with positions (document) -> variables replaced (interpolate) -> the models (model) -> the
names of keys looked up and the key references parsed. No key is opened and no storage is touched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipecrypt.config.document import (
    MAX_CONFIG_BYTES,
    Document,
    Problem,
    Value,
    ValuePath,
    config_error,
    interpolate_document,
    nearest_name,
    parse_document,
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
from pipecrypt.errors import ConfigError, KeyReferenceError, UsageError
from pipecrypt.keys.reference import anchored_reference
from pipecrypt.keys.service import check_key_reference

__all__ = ["LoadedConfig", "load_config"]

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
    document: Document
    directory: str

    def key_reference(self, name: str) -> str:
        """Return the key reference that a name under `keys` stands for, its path absolute."""
        return anchored_reference(self.model.keys[name], self.directory)

    def signing_keys(self) -> tuple[str, ...]:
        """Return the key references that `sign` names, their paths absolute; none where nothing is signed."""
        sign = self.model.sign
        if sign is None:
            return ()
        return tuple(anchored_reference(self.model.keys.get(each, each), self.directory) for each in sign.keys)

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
    document = interpolate_document(parse_document(_read(name), name), environ)
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
    if problems := [*_unknown_key_names(loaded), *_bad_key_references(loaded), *_bad_signing(loaded)]:
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


def _problems(errors: list[ErrorDetails], document: Document) -> list[Problem]:
    # pydantic calls a list too short when its items are wrong; only the items are worth telling.
    parents = {error["loc"][:length] for error in errors for length in range(len(error["loc"]))}
    return [
        _problem(error, document) for error in errors if error["type"] != "too_short" or error["loc"] not in parents
    ]


def _problem(error: ErrorDetails, document: Document) -> Problem:
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


def _unknown_key_names(loaded: LoadedConfig) -> Iterator[Problem]:
    encrypt, names = loaded.model.encrypt, loaded.model.keys
    used: list[tuple[ValuePath, str | None]] = [
        (("encrypt", "default"), encrypt.default),
        (("encrypt", "footer_key"), encrypt.footer_key),
        *((("encrypt", "also", index), name) for index, name in enumerate(encrypt.also)),
    ]
    used += [(("encrypt", "columns", index, "key"), entry.key) for index, entry in enumerate(encrypt.columns)]
    for path, name in used:
        if name is None or name in names:
            continue
        position = loaded.document.value_position(path)
        if "://" in name:
            hint = "give the key reference a name under `keys` and use that name here"
            yield Problem(position, f"{_dotted(path)} holds a key reference, not a name under `keys`", hint)
        else:
            yield Problem(position, f"no key {name!r} under `keys`", nearest_name(name, names))


def _bad_key_references(loaded: LoadedConfig) -> Iterator[Problem]:
    for name, reference in loaded.model.keys.items():
        try:
            check_key_reference(reference)
        except KeyReferenceError as error:
            yield Problem(loaded.document.value_position(("keys", name)), error.message, error.hint)


def _bad_signing(loaded: LoadedConfig) -> Iterator[Problem]:
    sign, names = loaded.model.sign, loaded.model.keys
    if sign is None:
        return
    for index, each in enumerate(sign.keys):
        position = loaded.document.value_position(_as_written(("sign", "keys", index), loaded.document))
        if each in names:
            continue
        if ":" not in each:
            yield Problem(position, f"no key {each!r} under `keys`", nearest_name(each, names))
            continue
        try:
            check_key_reference(each)
        except KeyReferenceError as error:
            yield Problem(position, error.message, error.hint)
    try:
        sign.validity()
    except UsageError as error:
        yield Problem(loaded.document.value_position(("sign", "valid_for")), error.message, error.hint)


def _as_written(path: ValuePath, document: Document) -> ValuePath:
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
