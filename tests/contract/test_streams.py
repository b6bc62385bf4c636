"""Streams against transformers' own: what is read when, in which order, and how much of it lives at once."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from comparison import Two, close, plain
from contract_inputs import PAIR, TEXTS
from torchless.errors import InputTypeError

MANY = [f"{'very ' * (i * 7 % 11)}good film {i}" for i in range(50)]


class Counted:
    """An iterator that knows how much of it was read."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.read = 0
        self._items = iter(items)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        item = next(self._items)
        self.read += 1
        return item


@pytest.fixture(scope="module", params=["sample", "bert-bpe-raw-4-multi-left", "roberta-bpe-7-multi-right"])
def two(request: pytest.FixtureRequest, open_two: Callable[..., Two]) -> Two:
    return open_two(request.param)


@pytest.mark.parametrize("size", [None, 1, 2, 7])
def test_the_order_is_kept(two: Two, size: int | None) -> None:
    two.agree(lambda: (text for text in MANY), batch_size=size)
    two.agree(lambda: ({"text": text, "text_pair": "bad"} for text in MANY[:20]), batch_size=size, top_k=None)


@pytest.mark.parametrize("size", [1, 2, 7, 50, 64])
def test_one_batch_is_read_and_answered_before_the_next(two: Two, size: int) -> None:
    for pipe in (two.ours, two.theirs):
        counted = Counted(MANY)
        answers = pipe((text for text in counted), batch_size=size)
        assert counted.read <= 1  # transformers 5 looks at the first
        for number, _ in enumerate(answers):
            # Having read a batch is enough for its answers; the generator is not even asked whether more would come.
            assert counted.read == min((number // size + 1) * size, len(MANY))
        assert counted.read == len(MANY)


def test_a_batch_is_answered_while_the_source_still_waits(sample: Two) -> None:
    """A source that needs the answers so far before it goes on, as a conversation does."""
    for size in (1, 2, 5):
        seen: list[Any] = []

        def source(size: int = size, seen: list[Any] = seen) -> Iterator[str]:
            for number, text in enumerate(TEXTS[:5] * 2):
                assert number < size or len(seen) >= number // size * size, (
                    "asked for more before the batch was answered"
                )
                yield text

        for answer in sample.ours(source(), batch_size=size):
            seen.append(answer)
        assert [answer["label"] for answer in seen] == [answer["label"] for answer in sample.ours(TEXTS[:5] * 2)]


@pytest.mark.parametrize(("arguments", "most"), [({}, 32), ({"batch_size": 8}, 8), ({"window": 100}, 100)], ids=str)
def test_memory_is_bounded(sample: Two, arguments: dict[str, Any], most: int) -> None:
    """Of 20,000 texts, no more live at once than are read ahead."""
    live = peak = 0

    class Text(str):
        __slots__ = ()

        def __new__(cls, value: str) -> Text:
            nonlocal live, peak
            live += 1
            peak = max(peak, live)
            return super().__new__(cls, value)

        def __del__(self) -> None:
            nonlocal live
            live -= 1

    answers = sample.ours((Text(f"good film {i}") for i in range(20_000)), **arguments)
    count = 0
    for count, answer in enumerate(answers, 1):  # noqa: B007
        assert type(answer) is dict
    assert count == 20_000
    # Those of the batch just answered may still be held while the next is read.
    assert peak <= 2 * most + 2
    gc.collect()
    assert live == 0


def test_datasets(two: Two) -> None:
    from torch.utils.data import Dataset, IterableDataset
    from transformers.pipelines.pt_utils import KeyDataset, KeyPairDataset

    rows = [{"sentence": text, "other": "is it good?"} for text in TEXTS]

    class Endless(Dataset):
        """Never raises IndexError: its length alone says where it ends."""

        def __len__(self) -> int:
            return 5

        def __getitem__(self, i: int) -> Any:
            return TEXTS[i % len(TEXTS)]

    class Stream(IterableDataset):
        def __iter__(self) -> Iterator[Any]:
            return iter([*TEXTS, PAIR])

    for size in (1, 4):
        for dataset in (KeyDataset(rows, "sentence"), KeyPairDataset(rows, "sentence", "other"), Endless()):
            two.agree(dataset, batch_size=size)
            two.agree(dataset, batch_size=size, top_k=None)
            assert len(two.ours(dataset)) == len(two.theirs(dataset)) == len(dataset)
        two.agree(Stream(), batch_size=size)
    for pipe in (two.ours, two.theirs):
        with pytest.raises(TypeError):
            len(pipe(Stream()))


def test_a_dataset_is_read_as_its_answers_are(two: Two) -> None:
    class Rows(list[str]):
        read = 0

        def __getitem__(self, i: Any) -> Any:
            self.read += 1
            return super().__getitem__(i)

    from transformers.pipelines.pt_utils import KeyDataset

    class Column(KeyDataset):
        def __getitem__(self, i: int) -> Any:
            return self.dataset[i]

    for pipe in (two.ours, two.theirs):
        rows = Rows(TEXTS)
        answers = iter(pipe(Column(rows, ""), batch_size=2))
        before = rows.read  # transformers 5 looks at the first
        next(answers)
        assert rows.read - before == 2
        assert len(list(itertools.islice(answers, 2))) == 2
        assert rows.read - before == 4


def test_a_column_of_a_dataset_is_a_stream(sample: Two) -> None:
    """As of `datasets`: a Sequence that is no list. transformers takes it in a KeyDataset alone."""

    class Column(Sequence[str]):
        def __len__(self) -> int:
            return len(TEXTS)

        def __getitem__(self, i: Any) -> Any:
            return TEXTS[i]

    answers = sample.ours(Column())
    assert not isinstance(answers, list)
    assert len(answers) == len(TEXTS)
    wanted = sample.theirs(TEXTS)
    for mine, yours in zip(answers, wanted, strict=True):
        assert mine["label"] == yours["label"]
        assert mine["score"] == close(yours["score"])


def test_a_wrong_item_is_told_by_its_number(two: Two) -> None:
    given = ["bad", "never", None, "so dull"]
    for pipe, kind in ((two.ours, InputTypeError), (two.theirs, ValueError)):
        answers = iter(pipe((item for item in given), batch_size=1))
        assert len([next(answers), next(answers)]) == 2
        with pytest.raises(kind):
            next(answers)
    with pytest.raises(InputTypeError, match="input 2 is NoneType"):
        plain(two.ours((item for item in given), batch_size=1))
