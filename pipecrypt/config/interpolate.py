"""Replace ${VAR} and ${VAR:-default} in text values. Parsing the YAML comes before, so no value can add structure.

`$$` stands for a dollar sign. A default holds no `}` and is taken as it is. As in a shell, `:-` also replaces
a variable that is set but empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipecrypt.config.document import Document, Problem, Value, ValuePath, config_error

__all__ = ["interpolate_document"]

_DOLLAR = re.compile(
    r"\$(?:(?P<escaped>\$)"
    r"|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}"
    r"|(?P<malformed>\{[^}]*\}?)"
    r"|(?P<bare>[A-Za-z_][A-Za-z0-9_]*))"
)


def interpolate_document(document: Document, environ: Mapping[str, str]) -> Document:
    """Return the document with every variable replaced; keys of mappings stay as they are.

    Raises:
        ConfigError: a variable is not set and has no default, or its spelling is wrong; all of them are named.
    """
    problems: list[Problem] = []

    def walk(value: Value, path: ValuePath) -> Value:
        if isinstance(value, dict):
            return {key: walk(child, (*path, key)) for key, child in value.items()}
        if isinstance(value, list):
            return [walk(child, (*path, index)) for index, child in enumerate(value)]
        if isinstance(value, str) and "$" in value:
            return _DOLLAR.sub(lambda match: replace(match, path), value)
        return value

    def replace(match: re.Match[str], path: ValuePath) -> str:
        text, said = _replacement(match, environ)
        if said is not None:
            problems.append(Problem(document.value_position(path), *said))
        return text

    root = {key: walk(child, (key,)) for key, child in document.root.items()}
    if problems:
        raise config_error(document.name, problems)
    return Document(document.name, root, document.values, document.names)


def _replacement(match: re.Match[str], environ: Mapping[str, str]) -> tuple[str, tuple[str, str] | None]:
    if match["escaped"]:
        return "$", None
    if match["malformed"] is not None:
        return "", (
            f"${match['malformed']} is not a variable",
            "write ${VAR} or ${VAR:-default}, or $$ for a dollar sign",
        )
    if match["bare"] is not None:
        name = match["bare"]
        return "", (f"${name} is not replaced", f"write ${{{name}}}, or $${name} for a dollar sign")
    name, default = match["name"], match["default"]
    found = environ.get(name)
    if default is not None:
        return found or default, None
    if found is None:
        return "", (f"the environment variable {name} is not set", f"set it, or write ${{{name}:-default}}")
    return found, None
