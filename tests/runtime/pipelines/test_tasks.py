"""`torchless.pipelines.tasks`: the table of tasks."""

from __future__ import annotations

import pytest

from torchless.errors import InputError
from torchless.pipelines.base import Pipeline
from torchless.pipelines.tasks import TASKS, Task, find_task, infer_task


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_each_task_has_a_pipeline_of_its_name(task: Task) -> None:
    loaded = task.load()
    assert isinstance(loaded, type)
    assert issubclass(loaded, Pipeline)
    assert loaded.task == task.name
    assert task.axes[0] == "batch"
    for name in (task.name, *task.aliases):
        assert find_task(name) is task


def test_no_name_stands_twice() -> None:
    names = [name for task in TASKS for name in (task.name, *task.aliases)]
    assert len(set(names)) == len(names)


def test_transformers_old_name() -> None:
    assert find_task("sentiment-analysis").name == "text-classification"


@pytest.mark.parametrize("name", ["", "ner", "Text-Classification", "text_classification", 3])
def test_an_unknown_task_lists_the_known(name: str) -> None:
    with pytest.raises(InputError, match="is unknown, wanted one of text-classification, sentiment-analysis"):
        find_task(name)


def test_among_others() -> None:
    other = Task("fill-mask", "torchless.pipelines.base", "Pipeline", "logits", ("batch", "sequence", "labels"), "")
    assert find_task("fill-mask", [*TASKS, other]) is other
    with pytest.raises(InputError):
        find_task("text-classification", [other])


@pytest.mark.parametrize(
    ("architectures", "name"),
    [
        (["BertForSequenceClassification"], "text-classification"),
        (["DistilBertModel"], "feature-extraction"),
        (["ModernBertModel", 3], "feature-extraction"),
        (["BertModel", "BertForSequenceClassification"], "text-classification"),
        (["BertForMaskedLM"], None),
        (["GPT2LMHeadModel"], None),
        (["GPT2DoubleHeadsModel"], None),
        (["Model"], None),
        (["Evil\nModel"], None),
        ("BertModel", None),
        ([3], None),
        (None, None),
    ],
)
def test_the_task_of_an_architecture(architectures: object, name: str | None) -> None:
    found = infer_task(architectures)
    assert (found and found.name) == name
