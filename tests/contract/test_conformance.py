"""Everything built in, and the mixers that only tests have, pass the suite that plugins' authors run."""

from __future__ import annotations

import pytest

from blockzoo.testing import conformance
from blockzoo_cpu.library import problem
from tests.contract.conftest import registry_with_tests_own

test_blocks = conformance("blocks")
test_cpu = pytest.mark.skipif(problem() is not None, reason=f"no C kernels here: {problem()}")(conformance("cpu"))
test_tensorboard = conformance("tensorboard")
test_torch = conformance("torch")
test_gpt2 = conformance("gpt2")
test_gpt_oss = conformance("gpt_oss")
test_qwen3 = conformance("qwen3")
test_for_tests = conformance("for_tests", registry_with_tests_own())
