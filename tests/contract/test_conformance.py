"""Everything built in passes the suite that plugins' authors run."""

from __future__ import annotations

from blockzoo.testing import conformance

test_blocks = conformance("blocks")
test_torch = conformance("torch")
test_gpt2 = conformance("gpt2")
test_gpt_oss = conformance("gpt_oss")
test_qwen3 = conformance("qwen3")
