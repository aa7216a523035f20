"""A verb that can't be imported."""

raise ImportError("no module named yesterday")
