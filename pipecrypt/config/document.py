"""YAML text to plain values, each with its line and column, variables replaced. Every problem names its place.

A file may come from anywhere, so its size, depth and number of values (aliases counted each time) are bounded, and
only plain YAML is taken: mappings with text keys, lists, text, numbers, booleans and null.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from pipecrypt.errors import ConfigError

__all__ = [
    "MAX_CONFIG_BYTES",
    "Position",
    "Problem",
    "Value",
    "ValuePath",
    "YAMLDocument",
    "config_error",
    "nearest_name",
    "parse_yaml",
]

_MAX_SHOWN = 10
MAX_CONFIG_BYTES = 256 * 1024
_MAX_DEPTH = 32
_MAX_VALUES = 20_000
_TAG = "tag:yaml.org,2002:"
_DOLLAR = re.compile(
    r"\$(?:(?P<escaped>\$)"
    r"|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}"
    r"|(?P<malformed>\{[^}]*\}?)"
    r"|(?P<bare>[A-Za-z_][A-Za-z0-9_]*))"
)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a file, both numbers counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Args:
        position: where.
        text: what, lower case, no full stop; never a value that may be a secret.
        hint: what to write instead, or None.
    """

    position: Position
    text: str
    hint: str | None = None


def config_error(name: str, problems: Iterable[Problem]) -> ConfigError:
    """Return one error for all problems of the file `name`, in the order of the file.

    A single problem has its hint on the hint line; several carry theirs in brackets.
    """
    ordered = sorted(problems, key=lambda problem: problem.position)
    if len(ordered) == 1:
        return ConfigError(_place(name, ordered[0]), hint=ordered[0].hint)
    lines = [_place(name, each) + (f" ({each.hint})" if each.hint else "") for each in ordered[:_MAX_SHOWN]]
    if len(ordered) > _MAX_SHOWN:
        lines.append(f"and {len(ordered) - _MAX_SHOWN} more")
    return ConfigError("\n".join(lines), problems=tuple(lines))


def nearest_name(name: str, valid: Iterable[str], taken: Collection[str | int] = ()) -> str:
    """Return a hint: the valid name that is nearest to `name` and not taken yet, or else all valid names."""
    names = list(valid)
    near = difflib.get_close_matches(name.lower(), [each for each in names if each not in taken], n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"valid here: {', '.join(names)}" if names else "nothing can stand here"


def _place(name: str, problem: Problem) -> str:
    return f"{name}:{problem.position.line}:{problem.position.column}: {problem.text}"


_START = Position(1, 1)

Value: TypeAlias = "dict[str, Value] | list[Value] | str | int | float | bool | None"
ValuePath: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class YAMLDocument:
    """A parsed configuration.

    Args:
        name: what errors call the file.
        root: the outermost mapping.
        values: position of each value, by its path from the root.
        names: position of each mapping key, by the path of its value.
    """

    name: str
    root: dict[str, Value]
    values: dict[ValuePath, Position]
    names: dict[ValuePath, Position]

    def value_position(self, path: ValuePath) -> Position:
        """Return where the value at `path` begins, or else the nearest thing around it."""
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, _START)

    def name_position(self, path: ValuePath) -> Position:
        """Return where the key of the value at `path` stands."""
        return self.names.get(path) or self.value_position(path)


def parse_yaml(data: bytes, name: str, environ: Mapping[str, str]) -> YAMLDocument:
    """Return the values of a YAML file, with every variable in them replaced; keys of mappings stay as they are.

    Args:
        data: the file.
        name: what errors call it.
        environ: values of variables.

    Raises:
        ConfigError: not UTF-8, not YAML, not a mapping, or more than a configuration can be; or a variable is not set
            and has no default, or its spelling is wrong: all of those are named.
    """
    reading = _Parser(name, environ)
    if len(data) > MAX_CONFIG_BYTES:
        reading.fail(_START, f"the file has {len(data)} bytes", f"a configuration has at most {MAX_CONFIG_BYTES}")
    root = _compose(_decode(data, reading), reading)
    if root is None:
        reading.fail(_START, "the file is empty", "pipecrypt init writes one to begin with")
    if not isinstance(root, MappingNode):
        reading.fail(_position(root), "a configuration is a mapping, such as `source: ...`")
    document = YAMLDocument(name, reading.mapping(root, ()), reading.values, reading.names)
    if reading.problems:
        raise config_error(name, reading.problems)
    return document


def _decode(data: bytes, reading: _Parser) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        position = Position(data.count(b"\n", 0, error.start) + 1, error.start - data.rfind(b"\n", 0, error.start))
        reading.fail(position, "the file is not UTF-8", "save it as UTF-8")


def _compose(text: str, reading: _Parser) -> Node | None:
    try:
        node: Node | None = YAML(typ="rt", pure=True).compose(text)
    except MarkedYAMLError as error:
        raise config_error(reading.name, [_syntax_problem(error, text)]) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        position = Position(line, error.position - text.rfind("\n", 0, error.position))
        reading.fail(position, "a control character cannot stand in YAML", "remove it")
    except (YAMLError, RecursionError, ValueError):
        reading.fail(_START, "the file is not YAML, or nested too deeply")
    return node


def _syntax_problem(error: MarkedYAMLError, text: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    position = _START if mark is None else Position(mark.line + 1, mark.column + 1)
    lines = text.splitlines()
    line = lines[position.line - 1] if position.line <= len(lines) else ""
    if line[: position.column].lstrip(" ").startswith("\t"):
        return Problem(position, "a tab cannot indent YAML", "indent with spaces")
    if "${" in line:
        return Problem(position, "not YAML", "put values that hold ${...} in quotes between { and }")
    said = str(error.problem or error.context or "malformed YAML")
    return Problem(position, f"not YAML: {said}", "check the indentation and the quotes")


def _position(node: Node) -> Position:
    return Position(node.start_mark.line + 1, node.start_mark.column + 1)


@dataclass(slots=True)
class _Parser:
    """One walk over the nodes of a file."""

    name: str
    environ: Mapping[str, str]
    values: dict[ValuePath, Position] = field(default_factory=dict)
    names: dict[ValuePath, Position] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def fail(self, position: Position, text: str, hint: str | None = None) -> NoReturn:
        raise config_error(self.name, [Problem(position, text, hint)]) from None

    def value(self, node: Node, path: ValuePath) -> Value:
        self.values[path] = _position(node)
        if len(path) > _MAX_DEPTH:
            self.fail(_position(node), f"nested more than {_MAX_DEPTH} deep")
        if len(self.values) > _MAX_VALUES:
            self.fail(_position(node), f"more than {_MAX_VALUES} values, aliases counted")
        if isinstance(node, MappingNode):
            return self.mapping(node, path)
        if isinstance(node, SequenceNode):
            self.check_tag(node, "seq")
            return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]
        found = self.scalar(node)
        # What a variable holds is put in as it is: it adds neither structure nor further variables.
        return _DOLLAR.sub(partial(self.variable, _position(node)), found) if isinstance(found, str) else found

    def mapping(self, node: MappingNode, path: ValuePath) -> dict[str, Value]:
        self.values[path] = _position(node)
        self.check_tag(node, "map")
        result: dict[str, Value] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode) or not isinstance(key := self.scalar(key_node), str):
                self.fail(_position(key_node), "a key must be text", "put it in quotes")
            if key in result:
                first = self.names[(*path, key)].line
                self.fail(_position(key_node), f"{key!r} stands here twice, first on line {first}", "remove one")
            self.names[(*path, key)] = _position(key_node)
            result[key] = self.value(value_node, (*path, key))
            if value_node.start_mark.index == value_node.end_mark.index:
                self.values[(*path, key)] = _position(key_node)  # `key:` with nothing behind it
        return result

    def check_tag(self, node: Node, kind: str) -> None:
        tag = str(node.tag)
        if tag not in {_TAG + kind, "!"}:
            self.fail(_position(node), f"{tag.removeprefix(_TAG)} is not a kind of value that a configuration has")

    def scalar(self, node: Node) -> str | int | float | bool | None:
        """Return the scalar's value by YAML 1.2's core schema; dates stay text."""
        text, tag = str(node.value), str(node.tag)
        if tag in {_TAG + "str", _TAG + "timestamp", _TAG + "merge", "!"}:
            return text
        if tag == _TAG + "null":
            return None
        if tag == _TAG + "bool":
            return text.lower() == "true"
        try:
            if tag == _TAG + "int":
                return int(text.replace("_", ""), 0)
            if tag == _TAG + "float":
                return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            pass
        self.fail(_position(node), f"{tag.removeprefix(_TAG)} is not a kind of value that a configuration has")

    def variable(self, position: Position, match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if match["escaped"]:
            return "$"
        if match["malformed"] is not None:
            text = f"${match['malformed']} is not a variable"
            hint = "write ${VAR} or ${VAR:-default}, or $$ for a dollar sign"
        elif (bare := match["bare"]) is not None:
            text, hint = f"${bare} is not replaced", f"write ${{{bare}}}, or $${bare} for a dollar sign"
        elif default is not None:
            return self.environ.get(name) or default
        elif name in self.environ:
            return self.environ[name]
        else:
            text, hint = f"the environment variable {name} is not set", f"set it, or write ${{{name}:-default}}"
        self.problems.append(Problem(position, text, hint))
        return ""
