"""Checkpoints: safetensors in and out, key maps used both ways, the model hub."""

from blockzoo.checkpoints.family import Family, Layout
from blockzoo.checkpoints.keymap import KeyMap, Rule, same
from blockzoo.checkpoints.load import from_pretrained, read_config
from blockzoo.checkpoints.save import save_pretrained

__all__ = ["Family", "KeyMap", "Layout", "Rule", "from_pretrained", "read_config", "same", "save_pretrained"]
