"""Functions as gpt-oss is told about them: JSON schemas written as TypeScript types with comments.

The layout (indents, where a comment stands) is that of OpenAI's renderer, whose tokens ours must equal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from blockzoo.chat.messages import Tool

SCALARS = {"number": "number", "integer": "number", "boolean": "boolean"}


def namespace(name: str, tools: Sequence[Tool], description: str | None = None) -> str:
    """One namespace of functions, its heading included."""
    lines = [f"## {name}\n"]
    said = _lines(description or "")
    if not tools:
        return "\n".join(lines + said)
    lines += [f"// {line}" for line in said]
    lines.append(f"namespace {name} {{\n")
    for tool in tools:
        lines += [f"// {line}" for line in _lines(tool.description)]
        arguments = "" if tool.parameters is None else f"_: {type_of(tool.parameters)}"
        lines.append(f"type {tool.name} = ({arguments}) => any;\n")
    lines.append(f"}} // namespace {name}")
    return "\n".join(lines)


def type_of(schema: Any, indent: str = "") -> str:
    """The type that a JSON schema describes; ``any`` for what has no words here."""
    variants, kind = _get(schema, "oneOf"), _get(schema, "type")
    if isinstance(variants, list):
        return "".join(f"\n{indent} | {_variant(variant, indent)}" for variant in variants)
    if isinstance(kind, list) and any(isinstance(word, str) for word in kind):
        return " | ".join("number" if word == "integer" else word for word in kind if isinstance(word, str))
    if kind == "object":
        return _object(schema, indent)
    if kind == "array":
        items = _get(schema, "items")
        return f"{type_of(items, indent)}[]" if "items" in schema else "Array<any>"
    if kind == "string":
        choices = _get(schema, "enum")
        words = [f'"{choice}"' for choice in choices if isinstance(choice, str)] if isinstance(choices, list) else []
        return " | ".join(words) or "string"
    return SCALARS.get(kind, "any") if isinstance(kind, str) else "any"


def _variant(schema: Any, indent: str) -> str:
    """One of several types, what is said of it behind it on the line."""
    remarks = [r for r in (_text(schema, "description"), _default(schema, bare_choice=False)) if r is not None]
    return _nullable(schema, f"{indent}   ") + (f" // {' '.join(remarks)}" if remarks else "")


def _object(schema: Mapping[str, Any], indent: str) -> str:
    description, required = _text(schema, "description"), _get(schema, "required")
    names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    properties = _get(schema, "properties")
    lines = ["{"] if description is None else [f"{indent}// {description}", "{"]
    for name, value in properties.items() if isinstance(properties, dict) else ():
        head = f"{indent}{name}{'' if name in names else '?'}:"
        lines += [f"{indent}{comment}" for comment in _above(value)]
        lines += _choices(value, head, indent) or [_plain(value, head, indent)]
    return "\n".join([*lines, f"{indent}}}"])


def _above(schema: Any) -> list[str]:
    """The comments over a property."""
    title, description, examples = _text(schema, "title"), _text(schema, "description"), _get(schema, "examples")
    comments = [] if title is None else [f"// {title}", "//"]
    if description is not None and not _has(schema, "oneOf"):
        comments.append(f"// {description}")
    if isinstance(examples, list) and examples:
        comments += ["// Examples:", *(f'// - "{example}"' for example in examples if isinstance(example, str))]
    return comments


def _plain(schema: Any, head: str, indent: str) -> str:
    default = None if _has(schema, "oneOf") else _default(schema)
    return f"{head} {_nullable(schema, indent + '    ')}," + (f" // {default}" if default else "")


def _choices(schema: Any, head: str, indent: str) -> list[str]:
    """A property of several types, a line each; empty where it has one type.

    Its description stands above, unless the first variant says the same; then that one's is left out.
    """
    variants = _get(schema, "oneOf")
    if not isinstance(variants, list):
        return []
    description = _text(schema, "description")
    above = description is not None and not (variants and _text(variants[0], "description") == description)
    remarks = [remark for remark in (description if above else None, _default(schema)) if remark is not None]
    lines = [*(f"{indent}// {remark}" for remark in remarks), head]
    for index, variant in enumerate(variants):
        said = _text(variant, "description")
        shown = None if said == description or (index == 0 and above) else said
        behind = [remark for remark in (shown, _default(variant)) if remark is not None]
        lines.append(f"{indent} | {_nullable(variant, indent + '   ')}" + (f" // {' '.join(behind)}" if behind else ""))
    return [*lines, f"{indent},"]


def _nullable(schema: Any, indent: str) -> str:
    text = type_of(schema, indent)
    return f"{text} | null" if _get(schema, "nullable") is True and "null" not in text else text


def _default(schema: Any, bare_choice: bool = True) -> str | None:
    """``default: 3``; text in quotes, unless it is one of a list of choices."""
    if not _has(schema, "default"):
        return None
    value, choices = schema["default"], _get(schema, "enum")
    if not isinstance(value, str):
        return f"default: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}"
    if isinstance(choices, list) and choices:
        return f"default: {value if bare_choice else json.dumps(value, ensure_ascii=False)}"
    return f'default: "{value}"'


def _has(schema: Any, key: str) -> bool:
    return isinstance(schema, Mapping) and key in schema


def _get(schema: Any, key: str) -> Any:
    return schema.get(key) if isinstance(schema, Mapping) else None


def _text(schema: Any, key: str) -> str | None:
    value = _get(schema, key)
    return value if isinstance(value, str) else None


def _lines(text: str) -> list[str]:
    """Lines without their ends; a last empty one is none."""
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines
