"""One run: train it, then measure what was trained. Nothing here depends on the process it runs in."""

from __future__ import annotations

from dataclasses import replace

from blockzoo.experiments.measure import MEASUREMENTS, measure
from blockzoo.experiments.memory import peak_memory
from blockzoo.experiments.plan import RunPlan
from blockzoo.registry import Registry
from blockzoo.tokenizers import Tokenizer, load_tokenizer
from blockzoo.training.data import prepare
from blockzoo.training.folder import RunFolder
from blockzoo.training.loop import Reporter
from blockzoo.training.run import Run
from blockzoo.training.source import Source
from blockzoo.training.tasks.source import TaskSource


def make_source(plan: RunPlan, *, registry: Registry) -> Source:
    """The tokens of a plan, from the cache or made for it. Raises InputError where there is no text."""
    tokenizer = load_tokenizer(plan.tokenizer, registry=registry)
    return prepare(plan.data, tokenizer, plan.tokenizer, plan.out / "data")


def make_run(plan: RunPlan, *, registry: Registry, source: Source | None = None) -> Run:
    """The training run of a plan; ``source`` where its tokens are at hand already."""
    data = make_source(plan, registry=registry) if source is None else source
    return Run(plan.model, plan.train, data, plan.out, registry, plan.tokenizer)


def run_arm(plan: RunPlan, *, registry: Registry, reporter: Reporter | None = None, restart: bool = False) -> RunFolder:
    """Execute a plan; what is done already is not done again. Raises what ``Run.execute`` raises."""
    return execute(make_run(plan, registry=registry), plan, reporter=reporter, restart=restart)


def execute(run: Run, plan: RunPlan, *, reporter: Reporter | None = None, restart: bool = False) -> RunFolder:
    """Train, and measure what a verdict run trained."""
    untrained = restart or run.folder.status()["state"] != "done"
    with peak_memory(plan.train.device) as peak:
        folder = run.execute(reporter, restart=restart)
    if not is_complete(folder, plan):
        before = folder.read(MEASUREMENTS) or {}
        memory = peak.growth if untrained else before.get("peak_memory_bytes")
        tokenizer: Tokenizer = load_tokenizer(plan.tokenizer, registry=run.registry)
        asked = plan
        if isinstance(run.data, TaskSource):  # it has words of its own, and questions instead of prompts
            tokenizer = run.data.tokenizer
            prompts = tuple(run.data.questions(len(plan.sample.prompts)))
            asked = replace(plan, sample=plan.sample.model_copy(update={"prompts": prompts}))
        found = measure(asked, folder, run.data, tokenizer, registry=run.registry)
        wanted = plan.sample.model_dump(mode="json")
        folder.write(MEASUREMENTS, {"sample": wanted, "peak_memory_bytes": memory, **found})
    return folder


def is_complete(folder: RunFolder, plan: RunPlan) -> bool:
    """Whether nothing of a plan is left to do."""
    if folder.status()["state"] != "done":
        return False
    found = folder.read(MEASUREMENTS)
    return plan.purpose == "scout" or (found is not None and found["sample"] == plan.sample.model_dump(mode="json"))
