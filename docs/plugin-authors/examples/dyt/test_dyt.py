from blockzoo.testing import conformance

test_conformance = conformance("dyt")
