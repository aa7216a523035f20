"""YAML -> a complete ModelConfig, and back: parse, merge, resolve, expand, check."""

from blockzoo.config.dump import digest, dump, dump_block, dump_yaml
from blockzoo.config.json_schema import json_schema
from blockzoo.config.load import Loaded, load, load_config
from blockzoo.config.parse import section
from blockzoo.config.schema import EmbeddingConfig, HeadConfig, InitConfig, LayerConfig, ModelConfig, Section
from blockzoo.config.shipped import shipped
from blockzoo.config.yaml_source import parse_override, read_yaml

__all__ = [
    "EmbeddingConfig",
    "HeadConfig",
    "InitConfig",
    "LayerConfig",
    "Loaded",
    "ModelConfig",
    "Section",
    "digest",
    "dump",
    "dump_block",
    "dump_yaml",
    "json_schema",
    "load",
    "load_config",
    "parse_override",
    "read_yaml",
    "section",
    "shipped",
]
