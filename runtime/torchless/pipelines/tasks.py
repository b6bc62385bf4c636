"""The tasks that torchless runs: a new one is an entry here and a class."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchless.errors import InputError

if TYPE_CHECKING:
    from torchless.pipelines.base import Pipeline


@dataclass(frozen=True, slots=True)
class Task:
    """One task.

    Attributes:
        name: as the manifest and transformers call it.
        module, pipeline: where its pipeline class is; imported when it is needed.
        output, axes: the graph's output.
        architectures: a regular expression for the classes, as config.json names them, whose models are for it.
        aliases: other names that transformers knows it by.
    """

    name: str
    module: str
    pipeline: str
    output: str
    axes: tuple[str, ...]
    architectures: str
    aliases: tuple[str, ...] = ()

    def load(self) -> Callable[..., Pipeline]:
        """Import and return the pipeline class."""
        loaded: Callable[..., Pipeline] = getattr(importlib.import_module(self.module), self.pipeline)
        return loaded


TASKS = (
    Task(
        name="text-classification",
        module="torchless.pipelines.text_classification",
        pipeline="TextClassificationPipeline",
        output="logits",
        axes=("batch", "labels"),
        architectures=r"\w+ForSequenceClassification",
        aliases=("sentiment-analysis",),
    ),
    Task(
        name="feature-extraction",
        module="torchless.pipelines.feature_extraction",
        pipeline="FeatureExtractionPipeline",
        output="last_hidden_state",
        axes=("batch", "sequence", "hidden"),
        architectures=r"\w+(?<!Head)(?<!Heads)Model",  # not BertLMHeadModel and the like
    ),
)


def infer_task(architectures: Any) -> Task | None:
    """Return the task that config.json's `architectures`, a list of class names, is for; None: none that is known."""
    names = [name for name in architectures if isinstance(name, str)] if isinstance(architectures, list) else []
    for task in TASKS:
        if any(re.fullmatch(task.architectures, name) for name in names):
            return task
    return None


def find_task(name: str, among: Iterable[Task] = TASKS) -> Task:
    """Return the task called `name`.

    Raises:
        InputError: no such task; the message lists those there are.
    """
    for task in among:
        if name == task.name or name in task.aliases:
            return task
    known = ", ".join(n for task in TASKS for n in (task.name, *task.aliases))
    raise InputError(f"the task {name!r} is unknown, wanted one of {known}")
