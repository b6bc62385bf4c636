"""The tasks that torchless runs: a new one is an entry here and a class."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
        aliases: other names that transformers knows it by.
    """

    name: str
    module: str
    pipeline: str
    output: str
    axes: tuple[str, ...]
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
        aliases=("sentiment-analysis",),
    ),
)


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
