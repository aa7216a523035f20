"""Must never be imported: another distribution has a plugin of the same name."""

raise AssertionError("imported a plugin in conflict")
