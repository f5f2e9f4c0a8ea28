"""The JSON Schema of a configuration, for editors. Checking a configuration is left to load.

An editor sees the file before variables are replaced, so where a number, a boolean or a choice is due, text that
holds `${...}` is allowed too.
"""

from __future__ import annotations

from typing import Any

from pipecrypt.config.model import ConfigModel

__all__ = ["config_schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_VARIABLE = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}"}
_NULL = {"type": "null"}  # pydantic adds it to what may be left out; loading refuses what is empty
_KEPT = ("title", "description", "default")


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
