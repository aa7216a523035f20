"""The conformance suite: what every registered thing owes its users, whoever wrote it.

A plugin's whole test file::

    from blockzoo.testing import conformance

    test_conformance = conformance("my_plugin")

Without pytest, ``checks("my_plugin", registry)`` is a list of things to run.
"""

from blockzoo.testing.adapter import conformance
from blockzoo.testing.check import Check, CheckFailed, CheckSkipped
from blockzoo.testing.suite import checks, checks_of

__all__ = ["Check", "CheckFailed", "CheckSkipped", "checks", "checks_of", "conformance"]
