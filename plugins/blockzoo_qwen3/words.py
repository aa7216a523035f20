"""The control tokens of Qwen3's chat format."""

from blockzoo.chat.format import Control

IM_START, IM_END = Control("<|im_start|>"), Control("<|im_end|>")
THINK, END_THINK = Control("<think>"), Control("</think>")
CALL, END_CALL = Control("<tool_call>"), Control("</tool_call>")
RESULT, END_RESULT = Control("<tool_response>"), Control("</tool_response>")
