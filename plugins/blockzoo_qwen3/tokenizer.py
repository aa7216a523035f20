"""Qwen's tokenizer: byte-level BPE of 151,643 tokens, digits one by one, NFC first, and 26 tokens beside it.

The first 14 of those are control tokens. The rest (tools, fill-in-the-middle, thinking) are ordinary text to a
tokenizer. The embedding table has 151,936 rows; the ones past 151,668 stand for nothing.
"""

from __future__ import annotations

from blockzoo.checkpoints.family import Splitting

END_OF_TEXT, IM_END = 151643, 151645

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"  # English contractions
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"  # a word, with what leads it
    r"|\p{N}"  # one digit
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"  # punctuation, to the end of its line
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"  # white space
)

CONTROL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
PLAIN = [
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
]

ADDED = tuple((END_OF_TEXT + n, word, word in CONTROL) for n, word in enumerate([*CONTROL, *PLAIN]))
SPLITTING = Splitting(pattern=PATTERN, nfc=True, added=ADDED)
