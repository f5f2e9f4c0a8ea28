from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipecrypt.config.model import config_schema

_CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
_TYPES = {
    "array": list,
    "boolean": bool,
    "integer": int,
    "null": type(None),
    "number": float,
    "object": dict,
    "string": str,
}


def _accepts(schema: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    """Validate as far as our schema goes; a keyword that this does not know fails the test."""
    return all(_KEYWORDS[keyword](argument, value, schema, root) for keyword, argument in schema.items())


def _type(argument: Any, value: Any, _schema: Any, _root: Any) -> bool:
    return isinstance(value, _TYPES[argument]) and not (argument == "integer" and isinstance(value, bool))


def _properties(argument: Any, value: Any, _schema: Any, root: Any) -> bool:
    return not isinstance(value, dict) or all(
        _accepts(argument[name], each, root) for name, each in value.items() if name in argument
    )


def _additional(argument: Any, value: Any, schema: Any, root: Any) -> bool:
    if not isinstance(value, dict) or argument is True:
        return True
    more = [each for name, each in value.items() if name not in schema.get("properties", {})]
    return not more if argument is False else all(_accepts(argument, each, root) for each in more)


def _true(*_: Any) -> bool:
    return True


_KEYWORDS: dict[str, Any] = {
    "$ref": lambda argument, value, _, root: _accepts(root["$defs"][argument.rsplit("/", 1)[1]], value, root),
    "additionalProperties": _additional,
    "anyOf": lambda argument, value, _, root: any(_accepts(each, value, root) for each in argument),
    "const": lambda argument, value, *_: value == argument,
    "enum": lambda argument, value, *_: value in argument,
    "items": lambda argument, value, _, root: (
        not isinstance(value, list) or all(_accepts(argument, each, root) for each in value)
    ),
    "maximum": lambda argument, value, *_: not isinstance(value, int) or value <= argument,
    "minimum": lambda argument, value, *_: not isinstance(value, int) or value >= argument,
    "minItems": lambda argument, value, *_: not isinstance(value, list) or len(value) >= argument,
    "minLength": lambda argument, value, *_: not isinstance(value, str) or len(value) >= argument,
    "minProperties": lambda argument, value, *_: not isinstance(value, dict) or len(value) >= argument,
    "pattern": lambda argument, value, *_: not isinstance(value, str) or re.search(argument, value) is not None,
    "properties": _properties,
    "propertyNames": lambda argument, value, _, root: (
        not isinstance(value, dict) or all(_accepts(argument, name, root) for name in value)
    ),
    "required": lambda argument, value, *_: not isinstance(value, dict) or set(argument) <= set(value),
    "type": _type,
} | dict.fromkeys(["$defs", "$schema", "title", "description", "default"], _true)


def test_there_are_configurations() -> None:
    assert "quickstart.yaml" in {path.name for path in _CONFIGS}


@pytest.mark.parametrize("path", _CONFIGS, ids=lambda path: path.name)
def test_the_schema_accepts_our_configurations(path: Path) -> None:
    schema = json.loads(json.dumps(config_schema()))

    value = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))

    assert _accepts(schema, value, schema)


@pytest.mark.parametrize(
    "change",
    [
        {"signed": "x"},
        {"sign": ""},
        {"sign": []},
        {"sign": 3},
        {"sign": {"digest": "sha256"}},
        {"sign": {"keys": "a", "digest": "md5"}},
        {"sign": {"keys": ["a"], "valid_for": 30}},
        {"run": {"workers": "many"}},
        {"run": {"workers": 0}},
        {"keys": {}},
        {"source": {}},
        {"encrypt": {"footer": "open"}},
        {"encrypt": {"columns": [{"match": [], "key": "a"}]}},
        {"encrypt": {"uniform": 1}},
    ],
)
def test_the_schema_refuses_what_loading_refuses(change: dict[str, Any]) -> None:
    schema = config_schema()
    good = {"source": {"url": "a"}, "sink": {"url": "b"}, "encrypt": {"default": "a"}, "keys": {"a": "keystore://k#a"}}

    assert _accepts(schema, good, schema)
    assert not _accepts(schema, good | change, schema)


@pytest.mark.parametrize(
    "sign", ["a", ["a", "b"], {"keys": "a"}, {"keys": ["a"], "digest": "blake3", "valid_for": "30d"}]
)
def test_the_schema_takes_every_form_of_sign(sign: object) -> None:
    schema = config_schema()
    good = {"source": {"url": "a"}, "sink": {"url": "b"}, "encrypt": {"default": "a"}, "keys": {"a": "keystore://k#a"}}

    assert _accepts(schema, good | {"sign": sign}, schema)
