"""``blockzoo evaluate``: a model on tasks of lm-evaluation-harness."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blockzoo import building
from blockzoo.checkpoints.atomic import new_file
from blockzoo.cli.opening import dtype_named, open_model, open_tokenizer
from blockzoo.cli.output import note, print_json, table
from blockzoo.config.dump import digest
from blockzoo.errors import BlockzooError, InputError, nearest
from blockzoo.importing import one_line
from blockzoo.plugins import host

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

    from blockzoo.evaluation.harness import HarnessModel


def command(
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="a checkpoint folder, a run folder, a hub id, or a config's name")
    ],
    tasks: Annotated[str, typer.Option(metavar="A,B", help="tasks of the harness, or the path of a task's YAML file")],
    include: Annotated[
        Path | None, typer.Option("--include-path", metavar="DIR", help="a folder with task files of your own")
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option("--num-fewshot", metavar="N", help="examples before each question; default: the task's"),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="the first N questions of each task: a try")] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="ask in the format that the model was trained to answer in")
    ] = False,
    prefix_token: Annotated[
        int | None,
        typer.Option(metavar="ID", help="what stands before a text without a context; default: its end token"),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="of the choice of examples")] = 1234,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps")] = "cpu",
    dtype: Annotated[str, typer.Option(help="stored, float32 or bfloat16")] = "stored",
    samples: Annotated[
        Path | None,
        typer.Option("--samples", metavar="FILE", help="write each question, answer and score as JSON lines"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Run tasks of lm-evaluation-harness on a model."""
    try:
        from lm_eval import simple_evaluate
    except ImportError as error:
        raise InputError(f"lm-evaluation-harness can't be imported ({error}): pip install 'blockzoo[eval]'") from error
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit}: at least 1")
    building.check_device(device)
    if include is not None and not include.is_dir():
        raise InputError(f"--include-path {include}: no such folder")
    names, manager = _tasks(tasks, include)
    model = _model(ref, device, dtype, chat, prefix_token)
    found = None
    try:
        # opened before hours of questions: one that can't be written is told at once
        with nullcontext() if samples is None else new_file(samples) as file:
            with _told(names):
                found = simple_evaluate(
                    model=model,
                    tasks=names,
                    num_fewshot=shots,
                    limit=limit,
                    task_manager=manager,
                    apply_chat_template=chat,
                    fewshot_random_seed=seed,
                    log_samples=samples is not None,
                    bootstrap_iters=1000,
                )
            assert found is not None
            if file is not None:
                lines = [line for task in found["samples"].values() for line in task]
                file.writelines(f"{json.dumps(line, default=str)}\n".encode() for line in lines)
    finally:  # neither of the two results is lost by what befalls the other
        if found is not None:
            _show(model, list(_rows(found["results"], found["n-shot"], found["n-samples"])), as_json)
    if samples is not None:
        note(f"{samples}: {len(lines)} questions")


def _show(model: HarnessModel, rows: list[dict[str, Any]], as_json: bool) -> None:
    config = model.model.config
    if as_json:
        print_json({"model": config.name, "digest": digest(config, host().registry), "results": rows})
        return
    columns = ("task", "examples", "questions", "metric", "value", "± standard error")
    table(config.name, columns, [[_cell(row[column]) for column in COLUMNS] for row in rows])


HARNESS = "blockzoo.evaluation.harness"
COLUMNS = ("task", "shots", "questions", "metric", "value", "stderr")


def _tasks(text: str, include: Path | None) -> tuple[list[str], TaskManager]:
    """The tasks, and who knows them. Raises InputError for a name that the harness doesn't know.

    The harness's own tasks are thousands of files, read only where a name isn't among one's own.
    """
    from lm_eval.tasks import TaskManager

    names = [name for part in text.split(",") if (name := part.strip())]
    if not names:
        raise InputError("--tasks names no task")
    own = None if include is None else str(include)
    manager = TaskManager(include_path=own, include_defaults=False)
    if set(names) <= set(manager.all_tasks):
        return names, manager
    manager = TaskManager(include_path=own)
    for name in names:
        if name not in manager.all_tasks and not Path(name).is_file():
            raise InputError(f"--tasks {name}{nearest(name, manager.all_tasks)}; `lm_eval ls tasks` lists them all")
    return names, manager


@contextmanager
def _told(names: Sequence[str]) -> Iterator[None]:
    """The harness raises whatever its libraries raise for a task that can't be read; our own errors stay errors."""
    try:
        yield
    except Exception as error:
        ours = any(frame.f_globals.get("__name__") == HARNESS for frame, _ in walk_tb(error.__traceback__))
        if ours or isinstance(error, BlockzooError):
            raise
        raise InputError(
            f"--tasks {','.join(names)}: the harness can't run them: {one_line(error, 'lm_eval')}"
        ) from error


def _model(ref: str, device: str, dtype: str, chat: bool, prefix_token: int | None) -> HarnessModel:
    from blockzoo.cli.talk import open_talk
    from blockzoo.evaluation.harness import HarnessModel

    floats, registry = dtype_named(dtype), host().registry
    talk = open_talk(ref, None, None, None, None, registry) if chat else None
    tokenizer = open_tokenizer(ref, registry=registry)
    return HarnessModel(
        open_model(ref, device, floats, registry=registry),
        tokenizer,
        prefix_token=prefix_token,
        chat=None if talk is None else talk.format,
        settings=None if talk is None else talk.settings,
    )


def _rows(
    results: Mapping[str, Mapping[str, Any]], shots: Mapping[str, int], questions: Mapping[str, Mapping[str, int]]
) -> Iterator[dict[str, Any]]:
    """The harness keys a metric as ``acc,none`` and its standard error as ``acc_stderr,none``; the word after the
    comma is the filter of the answers.
    """
    for task, values in results.items():
        for key, value in values.items():
            metric, comma, name = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            error = values.get(f"{metric}_stderr,{name}")
            yield {
                "task": task,
                "shots": shots.get(task),
                "questions": questions.get(task, {}).get("effective"),
                "metric": metric if name == "none" else f"{metric} ({name})",
                "value": value,
                "stderr": error if isinstance(error, float) else None,
            }


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
