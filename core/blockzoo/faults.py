"""Whose fault it is: a plugin's mistake is told with the plugin, the block, the layer and the line."""

from __future__ import annotations

from collections.abc import Callable
from traceback import walk_tb
from typing import ParamSpec, TypeVar

from torch import nn

from blockzoo.blocks import BlockConfig
from blockzoo.errors import BlockzooError, PluginError, RunError
from blockzoo.importing import one_line
from blockzoo.registry import Registry

P = ParamSpec("P")
T = TypeVar("T")


def asked(place: str, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What ``cost`` or ``build`` of the block at a place of the model answers (``layers.0.ffn``).

    Raises PluginError, naming block and line, for whatever the block raises that is no message for users.
    """
    try:
        answer = method(*args, **kwargs)
    except BlockzooError:
        raise
    except Exception as error:
        block = _innermost(method.__self__, error)  # type: ignore[attr-defined]
        where = one_line(error, type(block).__module__)
        raise PluginError(f"{title(block)} at {place}: {method.__name__}() raised {where}") from error
    if answer is None:
        raise PluginError(f"{title(method.__self__)} at {place}: {method.__name__}() returns None")  # type: ignore[attr-defined]
    return answer


def title(block: BlockConfig) -> str:
    """``plugin sqrelu, ffn sqrelu``; the class alone where nobody registered it."""
    plugin, _, name = block.registered.rpartition(":")
    return f"plugin {plugin}, {block.kind} {name}" if plugin else f"{block.kind} {type(block).__name__}"


def _innermost(block: BlockConfig, error: BaseException) -> BlockConfig:
    """The block inside it that failed: an expert rather than its mixture."""
    for frame, _ in walk_tb(error.__traceback__):
        inner = frame.f_locals.get("self")
        block = inner if isinstance(inner, BlockConfig) else block
    return block


def explained(error: Exception, registry: Registry) -> Exception:
    """The same error, or, where a third-party plugin raised it in a model's ``forward``, a PluginError that says which.

    It is read off the traceback afterwards, so passes that work pay nothing.
    """
    if isinstance(error, (BlockzooError, RunError)):
        return error
    plugins = {
        _package(thing): plugin for (_, _, plugin), thing in registry.things.items() if plugin not in registry.builtin
    }
    names: dict[nn.Module, str] = {}
    place, ffn, guilty = "", None, ""
    for frame, _ in walk_tb(error.__traceback__):
        running = frame.f_locals.get("self")
        if isinstance(running, nn.Module):
            names = names or {inner: name for name, inner in running.named_modules()}
            place, ffn = names.get(running, place).replace("_orig_mod.", ""), getattr(running, "ffn", None)
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        guilty = package if names and package in plugins else guilty
    package = type(ffn).__module__.partition(".")[0]
    if isinstance(error, ValueError) and "to unpack" in str(error) and package in plugins:
        # a residual failed to take apart what its ffn returned
        return PluginError(no_reports(f"plugin {plugins[package]}, {type(ffn).__name__} at {place}.ffn"))
    if guilty:
        return PluginError(f"plugin {plugins[guilty]} at {place or 'the model'} raised {one_line(error, guilty)}")
    return error


def no_reports(place: str) -> str:
    """What to say of an ffn that returns its output alone."""
    return f"{place}: an ffn returns its output and a dict of reports: return (y, {{}}) where it has none"


def _package(thing: object) -> str:
    """The top-level module that a registered thing comes from."""
    source = getattr(thing[1], "function", thing[1]) if isinstance(thing, tuple) else thing
    return str(getattr(source, "__module__", "")).partition(".")[0]
