"""Tests are of tiny tensors: a second thread of torch would only spin, beside the processes that tests start."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is imported, which is later
