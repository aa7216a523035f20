"""A JSON file of functions that the model may call."""

from __future__ import annotations

import json
from pathlib import Path

from blockzoo.chat.messages import Tool
from blockzoo.errors import InputError, nearest

KEYS = ("name", "description", "parameters", "strict")


def read_tools(path: str | Path) -> tuple[Tool, ...]:
    """The functions of a file: a list of ``{"name", "description", "parameters"}``, bare or as
    ``{"type": "function", "function": {...}}``. Raises InputError naming the entry.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: can't be read as JSON ({error})") from error
    if not isinstance(entries, list):
        raise InputError(f"{path}: must be a list of functions")
    tools = tuple(_tool(entry, f"{path}: entry {index}") for index, entry in enumerate(entries))
    names = [tool.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path}: two functions are named '{twice}'")
    return tools


def _tool(entry: object, where: str) -> Tool:
    if isinstance(entry, dict) and entry.get("type") == "function" and isinstance(entry.get("function"), dict):
        entry = entry["function"]
    if not isinstance(entry, dict):
        raise InputError(f"{where}: must be an object with name, description and parameters")
    for key in entry:
        if key not in KEYS:
            raise InputError(f"{where}: unknown key '{key}'{nearest(key, KEYS)}")
    name, description, parameters = entry.get("name"), entry.get("description", ""), entry.get("parameters")
    if not isinstance(name, str) or not name.replace("-", "_").isidentifier():
        raise InputError(f"{where}: name is {name!r}; it must be letters, digits, '_' and '-'")
    if not isinstance(description, str):
        raise InputError(f"{where}: description must be text")
    if parameters is not None and not isinstance(parameters, dict):
        raise InputError(f"{where}: parameters must be a JSON schema, or left out")
    return Tool(name, description, parameters)
