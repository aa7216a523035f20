"""pydantic's errors -> problems with a place, what was found, and what would be accepted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from blockzoo.blocks import BlockConfig
from blockzoo.config.node import Node, Problems, shown, unknown_key
from blockzoo.errors import nearest


def explain(
    error: ValidationError,
    cls: type[BaseModel],
    node: Node,
    problems: Problems,
    *,
    ignore: Iterable[str | int],
    partial: bool,
) -> None:
    """Tell everything that pydantic found wrong with ``node`` as a ``cls``.

    ``ignore``: fields whose own problems are told already. ``partial``: missing keys are none.
    """
    errors = [e for e in error.errors(include_url=False) if not (e["loc"] and e["loc"][0] in ignore)]
    targets = [_target(node, e["loc"]) for e in errors]
    alternatives: dict[int, tuple[Node, list[str]]] = {}  # the members of a union each say what they want
    for found, (target, led_nowhere) in zip(errors, targets, strict=True):
        if _is_about_keys(found):
            if not (partial and found["type"] == "missing"):
                _explain_keys(found, cls, node, target, problems)
        elif not (led_nowhere and any(_inside(other, target) for other, _ in targets)):  # a nearer miss says more
            alternatives.setdefault(id(target), (target, []))[1].append(_message(found, target))
    for target, messages in alternatives.values():
        start = f"found {shown(target)}; " if target is not node else ""
        problems.at(target, start + " or ".join(dict.fromkeys(messages)))


def _is_about_keys(found: Any) -> bool:
    return found["type"] in ("missing", "extra_forbidden", "union_tag_invalid", "union_tag_not_found")


def _explain_keys(found: Any, cls: type[BaseModel], node: Node, target: Node, problems: Problems) -> None:
    """A key that is missing or unknown, or a ``type`` that no member of a union has."""
    kind, loc = found["type"], found["loc"]
    key = str(loc[-1])
    if kind == "missing":
        problems.at(target, f"missing key '{key}'{_described(cls, loc)}")
    elif kind == "extra_forbidden":
        outer, known = _target(node, loc[:-1])[0], _keys(cls, loc[:-1])
        problems.at_key(outer, key, unknown_key(key, outer.mapping.get(key, outer), known, "; no keys are accepted"))
    elif kind == "union_tag_invalid":
        tag, accepted = str(found["ctx"]["tag"]), found["ctx"]["expected_tags"].replace("'", "").split(", ")
        problems.at(target.at("type"), f"found {tag!r}{nearest(tag, accepted)}")
    else:
        problems.at(target, "missing key 'type'")


def annotated_models(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models that an annotation speaks of, blocks left out."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [] if issubclass(annotation, BlockConfig) else [annotation]
    if get_origin(annotation) is Literal:
        return []
    return [model for argument in get_args(annotation) for model in annotated_models(argument)]


def _target(node: Node, loc: tuple[int | str, ...]) -> tuple[Node, bool]:
    """The value that an error is about, and whether parts of ``loc`` (names of a union's members) led nowhere."""
    rest = False
    for part in loc:
        if str(part) in node.mapping:
            node = node.mapping[str(part)]
        elif isinstance(part, int) and part < len(node.items):
            node = node.items[part]
        else:
            rest = True
    return node, rest


def _inside(node: Node, outer: Node) -> bool:
    return node is not outer and node.path.startswith(f"{outer.path}.")


def _models_at(cls: type[BaseModel], loc: tuple[int | str, ...]) -> list[type[BaseModel]]:
    classes = [cls]
    for part in loc:
        fields = [c.model_fields[str(part)] for c in classes if part in c.model_fields]
        inner = [model for info in fields for model in annotated_models(info.annotation)]
        named = [c for c in classes if part == c.__name__ or part in _tags(c)]
        classes = inner or named or classes
    return classes


def _tags(cls: type[BaseModel]) -> tuple[Any, ...]:
    info = cls.model_fields.get("type")
    return get_args(info.annotation) if info is not None and get_origin(info.annotation) is Literal else ()


def _keys(cls: type[BaseModel], loc: tuple[int | str, ...]) -> set[str]:
    return {key for model in _models_at(cls, loc) for key in model.model_fields}


def _described(cls: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    for model in _models_at(cls, loc[:-1]):
        info = model.model_fields.get(str(loc[-1]))
        if info is not None and info.description:
            return f" ({info.description})"
    return ""


def _message(found: Any, target: Node) -> str:
    context = found.get("ctx", {})
    if found["type"] in ("literal_error", "enum"):
        accepted = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        hint = nearest(str(target.value), accepted).removeprefix("; ")
        return hint if hint.startswith("accepted") else f"{hint} accepted: {', '.join(accepted)}"
    if found["type"] in ("model_type", "is_instance_of") and target.value is None:
        return "may not be null"
    if found["type"] == "model_type" and isinstance(found.get("input"), type(None)):
        return "may not be none"
    message: str = found["msg"]
    for prefix in ("Value error, ", "Assertion failed, "):
        message = message.removeprefix(prefix)
    message = message.partition(", unable to parse")[0].replace("Input should", "should", 1)
    return message.replace("should be a valid dictionary or instance of", "should be a")
