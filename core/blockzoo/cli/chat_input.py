"""Where the user's messages come from: a terminal, with history and several lines, or a pipe."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

from blockzoo.cli.output import note

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyPressEvent


class Source(Protocol):
    """``interactive``: a person who can be asked again; slash commands mean something."""

    @property
    def interactive(self) -> bool: ...

    def read(self, label: str) -> str | None:
        """The next message; None: there is none. An empty one is to be passed over."""
        ...


class Lines:
    """A message a line; a backslash at a line's end goes on with the next."""

    interactive = False

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def read(self, label: str) -> str | None:
        text, line = "", self._stream.readline()
        while line.endswith("\\\n"):
            text += line.removesuffix("\\\n") + "\n"
            line = self._stream.readline()
        return text + line.removesuffix("\n") if text or line else None


class Terminal:
    """Enter sends; Alt-Enter, or a backslash before Enter, begins another line; what is pasted stays whole."""

    interactive = True

    def __init__(self, history: Path | None) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory, InMemoryHistory
        from prompt_toolkit.key_binding import KeyBindings

        keys = KeyBindings()
        keys.add("enter")(_send)
        keys.add("escape", "enter")(_another_line)
        kept = InMemoryHistory() if history is None else FileHistory(str(history))
        self._session: PromptSession[str] = PromptSession(history=kept, multiline=True, key_bindings=keys)

    def read(self, label: str) -> str | None:
        try:
            return self._session.prompt(label, prompt_continuation=" " * len(label))
        except KeyboardInterrupt:
            note("(Ctrl-D, or /exit, ends the chat)")
            return ""
        except EOFError:
            return None


def _send(event: KeyPressEvent) -> None:
    buffer = event.current_buffer
    if buffer.document.text_before_cursor.endswith("\\"):
        buffer.delete_before_cursor()
        buffer.insert_text("\n")
    else:
        buffer.validate_and_handle()


def _another_line(event: KeyPressEvent) -> None:
    event.current_buffer.insert_text("\n")


def history_file() -> Path | None:
    """Where messages are kept for the arrow keys, readable by the user alone; None where that can't be written."""
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "blockzoo"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "chat-history").touch(mode=0o600)
        return folder / "chat-history" if os.access(folder / "chat-history", os.W_OK) else None
    except OSError:
        return None


def source() -> Source:
    if sys.stdin.isatty() and sys.stdout.isatty():
        return Terminal(history_file())
    return Lines(sys.stdin)
