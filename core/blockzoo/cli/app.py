"""The frame of the command line: global options, lazy verbs, and what becomes of errors and signals.

Exit status 0 on success, 1 for a run that failed (or a defect of ours), 2 for input the user must fix, 130 after an
interrupt, 141 when the reader of a pipe has gone, 143 after SIGTERM.
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any

import typer
import typer.core

from blockzoo.cli.verbs import Verb, as_command, foreign_verbs, own_verbs
from blockzoo.discovery import BROKEN, own_version
from blockzoo.errors import BlockzooError, ConfigError, RunError, nearest
from blockzoo.selection import Selection, parse
from blockzoo.uncollected import uncollected

OK, FAILED, WRONG_INPUT, INTERRUPTED, BROKEN_PIPE, TERMINATED = 0, 1, 2, 130, 141, 143
USERS_TO_FIX = frozenset(
    getattr(errno, name)
    for name in [
        "ENOSPC",
        "EDQUOT",
        "EFBIG",
        "EACCES",
        "EPERM",
        "EROFS",
        "ENOENT",
        "EISDIR",
        "ENOTDIR",
        "EEXIST",
        "ENAMETOOLONG",
        "ELOOP",
    ]
)
NO_MEMORY = "can't allocate memory"
"""What PyTorch says of the host's memory, in a RuntimeError."""
LONGEST = 4000
"""Characters of a line of a message: names come from files, and may be of any length."""
# typer uses the installed click or carries one of its own, by its version: this is the base of that click's errors
ClickError: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


class LazyGroup(typer.core.TyperGroup):
    """Verbs by name: a module is imported when its verb is run or asked for help, never for ``blockzoo --help``."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*own_verbs(), *foreign_verbs(_selection(ctx.params))[0]]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        selection = _selection(ctx.params)
        verb = own_verbs().get(cmd_name) or foreign_verbs(selection)[0].get(cmd_name)
        if verb is None:
            return None
        with uncollected():
            command = as_command(cmd_name, verb.load())
        if verb.loads_plugins and command.callback is not None:
            command.callback = _after_loading(command.callback)
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            ctx.fail(f"no verb '{args[0]}'{nearest(args[0], known)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        foreign, refused = foreign_verbs(_selection(ctx.params))
        verbs: list[Verb] = [*own_verbs().values(), *foreign.values()]
        with formatter.section("Verbs"):
            formatter.write_dl([(verb.name, verb.help) for verb in verbs])
        if refused:
            with formatter.section("Refused"):
                formatter.write_dl([("", line) for line in refused])


def _after_loading(callback: Callable[..., Any]) -> Callable[..., Any]:
    """The verb, run once plugins are loaded and the broken ones said, a line each."""

    @functools.wraps(callback)
    def run(*args: Any, **kwargs: Any) -> Any:
        from blockzoo.plugins import host

        for plugin in host().plugins:
            if plugin.state in BROKEN:
                _say("warning", f"plugin '{plugin.name}' {plugin.state}: {plugin.error}")
        return callback(*args, **kwargs)

    return run


app = typer.Typer(cls=LazyGroup, add_completion=False, rich_markup_mode=None, no_args_is_help=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"blockzoo {own_version()}")
        raise typer.Exit


@app.callback(help="Assemble, train and compare language models from interchangeable blocks.")
def root(
    context: typer.Context,
    no_plugins: Annotated[bool, typer.Option("--no-plugins", help="load the built-in plugins only")] = False,
    plugins: Annotated[
        str | None, typer.Option(metavar="A,B", help="load the built-in plugins and exactly these")
    ] = None,
    plugin: Annotated[
        list[str] | None, typer.Option("--plugin", metavar="FILE", help="also load this Python file; repeatable")
    ] = None,
    traceback: Annotated[bool, typer.Option("--traceback", help="show where in the code an error arose")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print it")
    ] = False,
) -> None:
    if no_plugins or plugins is not None or plugin:
        _selection(context.params).export()


def _selection(params: dict[str, Any]) -> Selection:
    """Flags over environment; what is denied stays denied."""
    selection = Selection.from_environment().with_files(params.get("plugin") or ())
    if params.get("no_plugins") and params.get("plugins") is not None:
        raise typer.BadParameter("--no-plugins and --plugins exclude each other")
    if params.get("no_plugins"):
        return replace(selection, only=frozenset())
    if params.get("plugins") is not None:
        return replace(selection, only=parse(params["plugins"]) or frozenset())
    return selection


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        with _orderly_end():
            status = _run(list(sys.argv[1:] if argv is None else argv) or ["--help"])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough
        _drop_output()
        return BROKEN_PIPE
    except OSError as error:  # what was printed last didn't fit on the disk
        _drop_output()
        return _report(error)
    return status


def _run(arguments: list[str]) -> int:
    group: Any = typer.main.get_command(app)
    show_traceback = False
    try:
        with group.make_context("blockzoo", arguments) as context:
            show_traceback = context.params["traceback"]
            group.invoke(context)
    except typer.Exit as stop:
        return stop.exit_code
    except BrokenPipeError:
        raise
    except _Terminated:
        _say("terminated")
        return TERMINATED
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted")
        return INTERRUPTED
    except ClickError as error:
        where = getattr(error, "ctx", None)
        hint = f"; see '{where.command_path} --help'" if where else ""
        _say("error", error.format_message().rstrip(".") + hint)
        return WRONG_INPUT
    except Exception as error:
        if show_traceback:
            traceback.print_exc()
        return _report(error)
    return OK


class _Terminated(KeyboardInterrupt):
    """SIGTERM came: whoever lets Ctrl-C pass lets this pass."""


@contextmanager
def _orderly_end() -> Iterator[None]:
    """SIGTERM ends this process as Ctrl-C does: what is half-written and side processes go before it."""

    def leave(number: int, frame: object) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _drop_output() -> None:
    """What is still buffered goes nowhere, so that closing at interpreter exit can't fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(error: Exception) -> int:
    if isinstance(error, ConfigError):
        for problem in error.problems:
            _say("error", str(problem))
        return WRONG_INPUT
    if isinstance(error, BlockzooError):
        _say("error", str(error))
        return WRONG_INPUT
    if isinstance(error, RunError):
        _say("error", str(error))
        return FAILED
    if isinstance(error, OSError) and error.errno in USERS_TO_FIX:
        place = f"{error.filename}: " if error.filename is not None else ""
        _say("error", f"{place}{error.strerror}")
        return WRONG_INPUT
    if isinstance(error, MemoryError) or NO_MEMORY in str(error):
        _say("error", "out of memory", "`blockzoo plan MODEL` says what takes how much, and what would make it fit")
        return FAILED
    if (explanation := _explained(error)) is not error:
        _say("error", str(explanation), "--traceback shows more")
        return FAILED
    _say(
        "error", f"{type(error).__name__}: {error}", "not the input's fault, as far as we know; --traceback shows where"
    )
    return FAILED


def _explained(error: Exception) -> Exception:
    """What is a plugin's fault, as that."""
    if "blockzoo.plugins" not in sys.modules:  # nothing was loaded
        return error
    from blockzoo.faults import explained
    from blockzoo.plugins import host

    return explained(error, host().registry)


def _say(*parts: str) -> None:
    from blockzoo.cli.output import cleaned

    text = cleaned(": ".join(part for part in parts if part))
    lines = [line if len(line) <= LONGEST else f"{line[:LONGEST]}..." for line in text.splitlines()]
    print("blockzoo: " + "\n".join(lines), file=sys.stderr, flush=True)
