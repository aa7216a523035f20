"""Must never be imported: its metadata asks for another blockzoo."""

raise AssertionError("imported an incompatible plugin")
