"""Must never be imported: its plugin name belongs to another."""

raise AssertionError("imported a plugin in conflict")
