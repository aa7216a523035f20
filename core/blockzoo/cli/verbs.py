"""The table of verbs: what ``--help`` prints without importing any of them.

A verb of ours is a module with a function ``command`` (typer annotations), or a ``typer.Typer`` of that name where it
has verbs of its own. A third party's is an entry point of the group ``blockzoo.commands``, named as the verb, that
points to either.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import typer

from blockzoo.discovery import COMMAND_GROUP, PLUGIN_GROUP, Installed, installed
from blockzoo.errors import PluginError
from blockzoo.selection import Selection


class Verb(Protocol):
    """One line of ``blockzoo --help``."""

    @property
    def name(self) -> str: ...
    @property
    def help(self) -> str: ...
    @property
    def loads_plugins(self) -> bool: ...
    def load(self) -> Any: ...


@dataclass(frozen=True)
class OwnVerb:
    """A verb of ours. ``loads_plugins``: the host is loaded, and what is broken said, before it runs."""

    name: str
    help: str
    loads_plugins: bool = True

    def load(self) -> Any:
        return importlib.import_module(f"blockzoo.cli.{self.name}").command


@dataclass(frozen=True)
class ForeignVerb:
    """A verb that a third-party distribution brings."""

    installed: Installed
    loads_plugins: bool = True

    @property
    def name(self) -> str:
        return self.installed.entry.name

    @property
    def help(self) -> str:
        return f"(from {self.installed.distribution} {self.installed.version})"

    def load(self) -> Any:
        """Raises PluginError, one line, whatever its import raises."""
        from blockzoo.importing import one_line

        try:
            return self.installed.entry.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            why = one_line(error, self.installed.entry.module)
            raise PluginError(f"verb '{self.name}' of {self.installed.distribution} can't be loaded: {why}") from error


OWN_VERBS = (
    OwnVerb("list", "what can be named: configs, blocks, ops, kernels, families"),
    OwnVerb("show", "a model's YAML; --expanded: every layer, with the source of each value"),
    OwnVerb("validate", "check YAML files: all errors at once"),
    OwnVerb("schema", "the JSON schema of model files, for editors"),
    OwnVerb("inspect", "parameters, bytes, cache and FLOPs, without building; several models side by side"),
    OwnVerb("plan", "what memory a model needs, whether it fits, and what would make it fit"),
    OwnVerb("diff", "what two models differ in, in words and numbers"),
    OwnVerb("solve", "turn a model's knobs until it costs as much as another"),
    OwnVerb("draw", "models side by side as an SVG figure, differences marked"),
    OwnVerb("train", "train one model from YAML"),
    OwnVerb("generate", "continue a prompt, or answer one"),
    OwnVerb("chat", "talk to a model in the format it was trained on"),
    OwnVerb("evaluate", "run tasks of lm-evaluation-harness on a model"),
    OwnVerb("coordinates", "whether a learning rate does the same at every width and depth"),
    OwnVerb("compare", "train the arms of an experiment and tabulate them"),
    OwnVerb("report", "make an experiment's report again: HTML, JSON, CSV"),
    OwnVerb("download", "fetch a checkpoint from the model hub, whole and verified"),
    OwnVerb("convert", "write a checkpoint in another layout"),
    OwnVerb("plugins", "what is installed, what loaded, and why the rest didn't", loads_plugins=False),
    OwnVerb("kernels", "which kernel serves which op of a model, and why the others lost"),
    OwnVerb("bench", "how fast a model decodes, reads, loads and trains, beside the machine's roof and beside peers"),
    OwnVerb("doctor", "check this installation", loads_plugins=False),
)


def own_verbs() -> Mapping[str, Verb]:
    return {verb.name: verb for verb in OWN_VERBS}


def foreign_verbs(selection: Selection) -> tuple[dict[str, Verb], list[str]]:
    """The verbs of third parties that the selection lets through, and a line for each one refused.

    A verb goes with the plugins of its distribution: chosen where one of them is, denied where one of them is.
    """
    plugins: dict[str, set[str]] = {}
    for item in installed(PLUGIN_GROUP):
        plugins.setdefault(item.distribution, set()).add(item.entry.name)
    verbs: dict[str, Verb] = {}
    refused: dict[str, str] = {}
    for item in sorted(installed(COMMAND_GROUP), key=lambda item: (item.entry.name, item.distribution)):
        name, names = item.entry.name, plugins.get(item.distribution, {item.distribution})
        if names & set(selection.deny) or (selection.only is not None and not names & selection.only):
            continue
        if name in own_verbs():
            refused[f"{name} {item.distribution}"] = (
                f"verb '{name}' of {item.distribution} is refused: blockzoo has one"
            )
        elif name in verbs or name in refused:
            verbs.pop(name, None)
            refused[name] = f"verb '{name}' is refused: several distributions bring one"
        else:
            verbs[name] = ForeignVerb(item)
    return verbs, list(refused.values())


def as_command(name: str, loaded: Any) -> Any:
    """The click command of a verb's function, of its ``typer.Typer``, or itself where it is one."""
    if isinstance(loaded, typer.Typer):
        return typer.main.get_command(loaded)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name)(loaded)
    return typer.main.get_command(app)
