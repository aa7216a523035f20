"""``blockzoo hello NAME``."""

from blockzoo.errors import RunError


def command(name: str, loudly: bool = False, fail: bool = False) -> None:
    """Greet somebody."""
    if fail:
        raise RunError("lost for words")
    print(f"hello {name}{'!' if loudly else ''}")
