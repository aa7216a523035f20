"""The JSON schema (draft 2020-12) of a config file, with the blocks of all loaded plugins: for editors.

It is looser than loading where a file may be only differences to another: no key is required in a block, for
``extends`` or ``use`` may bring it. Unknown keys are refused at every depth, as loading refuses them.

Alternatives are told apart by ``if`` and ``then``, on a mapping's ``type`` or on its keys, seldom by ``anyOf``: a
validator then complains about the one key that is wrong, and not that none of twenty blocks fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema

from blockzoo.blocks import KINDS, AdditivePositionConfig, BlockConfig, nested_kinds
from blockzoo.config.expand import INHERITED, MAX_LAYERS, SLOTS
from blockzoo.config.schema import ModelConfig
from blockzoo.registry import Registry

Schema: TypeAlias = dict[str, Any]

REQUIRED = ("vocab_size", "context_length", "d_model", "layers")
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SLOT_HELP = {
    "mixer": "what mixes tokens: attention or a recurrence",
    "ffn": "what each token passes by itself",
    "norm": "the norm of every layer",
    "position": "what acts inside attention: rotating, biasing, or none",
    "residual": "how norms, mixer and ffn are joined; default: pre_norm",
    "quantizer": "how the weights of mixer and ffn are stored; default: none",
}


def json_schema(registry: Registry) -> Schema:
    """The schema of a config file."""
    definitions: dict[str, Schema] = {}
    definitions |= _kinds(registry, definitions)
    sections = ("embedding", "head", "init", "layers")  # written below: they refer to blocks
    whole = ModelConfig.model_json_schema()["properties"]
    properties: Schema = {key: _loose(value) for key, value in whole.items() if key not in sections}
    for name in ("embedding", "head", "init"):
        section = ModelConfig.model_fields[name].annotation
        assert isinstance(section, type)
        assert issubclass(section, BaseModel)
        described = _object(_model(section, definitions, name), description=_first_line(section))
        properties[name] = _any_of(described, {"type": "null"})
    for slot in INHERITED:
        properties[slot] = {"description": _SLOT_HELP[slot], **_ref(slot)}
    properties["blocks"] = {
        "type": "object",
        "description": "blocks by names of your own; slots, 'use' and patterns name them",
        "additionalProperties": _word_or(_ref("any_block")),
    }
    properties["extends"] = {
        "type": "string",
        "description": "another config, by name or by path relative to this file; this file says only what differs",
    }
    properties["layers"] = _layers()
    return {
        "$schema": _DIALECT,
        "title": "blockzoo model",
        **_object(properties),
        "if": {"required": ["extends"]},
        "else": {"required": list(REQUIRED)},
        "$defs": definitions,
    }


def section_schema(cls: type[BaseModel], definitions: dict[str, Schema], name: str) -> Schema:
    """A section that isn't part of a model, as loosely; what it refers to goes among ``definitions`` under ``name``."""
    return _object(_model(cls, definitions, name), description=_first_line(cls))


# --- blocks -----------------------------------------------------------------------------------------------------


def _kinds(registry: Registry, definitions: dict[str, Schema]) -> dict[str, Schema]:
    """Definitions of every block, and for each kind of what may stand in a slot for it."""
    found: dict[str, Schema] = {}
    everything: list[Block] = []
    for kind in KINDS:
        blocks = list(_blocks(kind, registry, definitions))
        if all("none" not in block.words for block in blocks):
            blocks.append(Block(f"{kind}/none", ("none",), _object({"type": {"const": "none"}}, required=["type"])))
        found |= {block.definition: block.schema for block in blocks}
        count = {"type": "integer", "minimum": 1, "maximum": MAX_LAYERS, "description": "how many layers in a row"}
        run = {"count": count, "type": {"type": "string"}, **_differences(blocks)["properties"]}
        found[f"{kind}_block"] = _block(blocks)
        found[kind] = _word_or(_ref(f"{kind}_block"), sorted(word for block in blocks for word in block.words))
        found[f"{kind}_run"] = _word_or(_object(run))
        everything += blocks
    return {**found, "any_block": _block(everything)}


class Block(NamedTuple):
    """One block: the name of its definition, the words that ``type`` may be for it, and its schema."""

    definition: str
    words: tuple[str, ...]
    schema: Schema


def _blocks(kind: str, registry: Registry, definitions: dict[str, Schema]) -> Iterator[Block]:
    for component in registry.components():
        if component.kind != kind:
            continue
        cls: type[BlockConfig] = registry.block(kind, component.canonical)
        bare = [component.name] if component.name in registry.names(kind) else []
        words = (*bare, component.canonical)
        properties = _model(cls, definitions, component.canonical)
        title = {"enum": list(words), "description": _first_line(cls)}
        yield Block(f"{kind}/{component.canonical}", words, _object({"type": title, **properties}, required=["type"]))


def _block(blocks: Sequence[Block]) -> Schema:
    """A mapping that is one of these: chosen by ``type``, or differences to another where it has none."""
    cases: dict[str, list[Schema]] = {}
    for block in blocks:
        for word in block.words:
            cases.setdefault(word, []).append(_ref(block.definition))
    return _by_type(cases, otherwise=_differences(blocks))


def _by_type(cases: Mapping[str, Sequence[Schema]], otherwise: Schema) -> Schema:
    """The schemas that a mapping may have, by the word of its ``type``; ``otherwise`` where it has no such key."""
    branches = [
        {
            "if": {"properties": {"type": {"const": word}}},
            "then": schemas[0] if len(schemas) == 1 else _any_of(*schemas),
        }
        for word, schemas in cases.items()
    ]
    then = {"properties": {"type": {"enum": list(cases)}}, "allOf": branches}
    return {"type": "object", "if": {"required": ["type"]}, "then": then, "else": otherwise}


def _differences(blocks: Sequence[Block]) -> Schema:
    """Any keys of these blocks, null to delete one."""
    fields: dict[str, list[Schema]] = {}
    for block in blocks:
        for key, schema in block.schema["properties"].items():
            if key != "type" and schema not in fields.setdefault(key, []):
                fields[key].append(schema)
    use = {"type": "string", "description": "a block of 'blocks' that this one differs from"}
    return _object({"use": use, **{key: _any_of(*known, {"type": "null"}) for key, known in fields.items()}})


def _word_or(schema: Schema, words: Sequence[str] = ()) -> Schema:
    """A mapping, or a word: one of your own or, for an editor to offer, one of these; null deletes."""
    word: Schema = {"type": ["string", "null"]}
    return {
        "if": {"type": "object"},
        "then": schema,
        "else": _any_of({"enum": list(words)}, word) if words else word,
    }


def _model(cls: type[BaseModel], definitions: dict[str, Schema], name: str) -> Schema:
    """The properties of a pydantic model; references to blocks become references to their kinds."""
    try:
        schema = cls.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
    except PydanticInvalidForJsonSchema:  # a plugin's field of some type that has none
        schema = {
            "properties": {key: {"description": info.description or ""} for key, info in cls.model_fields.items()}
        }
    properties: Schema = schema.get("properties", {})
    for key, base in nested_kinds(cls).items():  # type: ignore[arg-type]  # sections refer to blocks the same way
        described = {k: v for k, v in properties.get(key, {}).items() if k == "description"}
        slot = _ref(base.kind)
        many = {"type": "array", "items": slot}
        lists = properties.get(key, {}).get("type") == "array"
        properties[key] = {**described, **(many if lists else slot)}
        if issubclass(base, AdditivePositionConfig):
            properties[key]["description"] = f"{described.get('description', '')}: acts on the embedding"
    _adopt(name, schema.get("$defs", {}), properties, definitions)
    return {key: _loose(value) for key, value in properties.items()}


def _adopt(name: str, inner: dict[str, Schema], properties: Schema, definitions: dict[str, Schema]) -> None:
    """Move the definitions that the properties refer to, themselves or through others, among the schema's own."""
    pending: list[Schema] = [properties]
    while pending:
        text = str(pending.pop())
        for key, definition in inner.items():
            if f"{name}.{key}" not in definitions and f"'#/$defs/{name}.{key}'" in text:
                definitions[f"{name}.{key}"] = _loose(definition)
                pending.append(definition)


def _loose(schema: Any) -> Any:
    """Without ``required`` and titles: a file may hold only differences."""
    if isinstance(schema, list):
        return [_loose(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("discriminator", {}).get("propertyName") == "type":
        cases = {word: [{"$ref": place}] for word, place in schema["discriminator"]["mapping"].items()}
        said = {key: schema[key] for key in ("description", "default") if key in schema}
        return said | _by_type(cases, otherwise=_any_of(*schema["oneOf"]))
    found = {}
    for key, value in schema.items():
        if key in ("required", "discriminator") or (key == "title" and isinstance(value, str)):
            continue
        if key == "properties":
            found[key] = {name: _loose(inner) for name, inner in value.items()}
        else:
            found["anyOf" if key == "oneOf" else key] = value if key in ("default", "enum", "const") else _loose(value)
    return found


# --- layers -----------------------------------------------------------------------------------------------------


def _layers() -> Schema:
    index = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^\d+\s*-\s*\d+$"}]}
    at = {
        "description": "which layers: an index (negative from the end), a span such as 2-5, or a list of those",
        "anyOf": [*index["anyOf"], {"type": "array", "items": index}],
    }
    slots = {slot: {"description": _SLOT_HELP[slot], **_ref(slot)} for slot in SLOTS}
    overrides = {
        "type": ["array", "null"],
        "description": "what single layers have otherwise",
        "items": _object({"at": at, **slots}, required=["at"]),
    }
    count = {"type": "integer", "minimum": 1, "maximum": MAX_LAYERS, "description": "how many layers"}
    return _object({"count": count, **{slot: _pattern(slot) for slot in SLOTS}, "overrides": overrides})


def _pattern(slot: str) -> Schema:
    """One block for all layers, or a pattern over them."""
    many = {"type": "array", "minItems": 1, "items": _ref(slot)}
    partial = {"type": "boolean", "default": False, "description": "the last cycle may break off"}
    cycle = {"description": "these in turn, as often as there are layers", **many}
    runs = {
        "description": "each so many times; the last without a count takes the rest",
        "type": "array",
        "minItems": 1,
        "items": _ref(f"{slot}_run"),
    }
    described = {"description": "one for each layer", **many}
    forms = {
        "cycle": _object({"cycle": cycle, "partial": partial}),
        "runs": _object({"runs": runs}),
        "list": _object({"list": described}),
    }
    schema = _ref(slot)
    for key, form in forms.items():
        schema = {"if": {"type": "object", "required": [key]}, "then": form, "else": schema}
    return {"description": _SLOT_HELP[slot], **schema}


def _object(properties: Schema, required: list[str] | None = None, description: str = "") -> Schema:
    found: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        found["required"] = required
    if description:
        found["description"] = description
    return found


def _any_of(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name.replace('/', '~1')}"}


def _first_line(cls: type[BaseModel]) -> str:
    return (cls.__doc__ or cls.__name__).strip().splitlines()[0]
