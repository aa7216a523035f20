"""A verb, behind the slow import of its package."""


def dawdle() -> None:
    """Say that it took long."""
    print("that took a while")
