"""`torchless.pipelines.base`: batches, windows, streams, and the life of a pipeline."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import torchless
from torchless.errors import BundleError, InferenceError, InputError, InputTypeError
from torchless.pipelines import flow
from torchless.pipelines.base import Pipeline
from torchless.pipelines.inputs import check_count

TEXTS = ["a fine film", "dull", "the jokes are old and the plot is older", "it says nothing at all", "great fun", "no"]
TOO_LONG = "dull " * 600


@pytest.fixture
def open_changed(bundle_copy: Path) -> Callable[..., Pipeline]:
    """Return a function that opens a copy of the sample whose manifest says otherwise of the tokenizer."""

    def opened(*, batch_size: int | None = None, **tokenizer: Any) -> Pipeline:
        change(bundle_copy, lambda manifest: manifest["tokenizer"].update(tokenizer))
        return torchless.pipeline(model=bundle_copy, variant="fp32", device="cpu", batch_size=batch_size)

    return opened


def change(bundle: Path, edit: Callable[[dict[str, Any]], Any], config: dict[str, Any] | None = None) -> None:
    """Edit a bundle's manifest, and config.json with it."""
    manifest = json.loads((bundle / "torchless.json").read_bytes())
    if config is not None:
        data = json.dumps(json.loads((bundle / "config.json").read_bytes()) | config).encode()
        (bundle / "config.json").write_bytes(data)
        entry = next(entry for entry in manifest["files"] if entry["path"] == "config.json")
        entry.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    edit(manifest)
    (bundle / "torchless.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> Callable[[Pipeline], list[tuple[int, int]]]:
    """Return a function that starts to note the shape of each batch a pipeline runs."""

    def watch(pipe: Pipeline) -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        run = pipe.forward

        def forward(inputs: Any) -> Any:
            seen.append(inputs["input_ids"].shape)
            return run(inputs)

        monkeypatch.setattr(pipe, "forward", forward)
        return seen

    return watch


@pytest.mark.parametrize("size", [None, 1, 32])
def test_batch_sizes(size: int | None) -> None:
    assert check_count("batch_size", size) == size


@pytest.mark.parametrize("size", [0, -1, True, 2.0, "2"])
def test_wrong_batch_sizes(pipe: Pipeline, sample_bundle: Path, size: Any) -> None:
    with pytest.raises(InputError, match="wanted a whole number from 1"):
        pipe(TEXTS, batch_size=size)
    with pytest.raises(InputError, match="batch_size"):
        torchless.pipeline(model=sample_bundle, batch_size=size)


class TestLife:
    def test_attributes(self, pipe: Pipeline, sample_bundle: Path) -> None:
        assert pipe.task == "text-classification"
        assert pipe.bundle == sample_bundle
        assert pipe.variant == "fp32"
        assert pipe.provider == "CPUExecutionProvider"
        assert pipe.labels == ("NEGATIVE", "POSITIVE")
        assert pipe.max_length == 512
        assert pipe.tokenizer_spec.inputs == ("input_ids", "attention_mask")
        assert repr(pipe) == f"<TextClassificationPipeline {str(sample_bundle)!r} fp32 on CPUExecutionProvider>"

    def test_closed(self, sample_bundle: Path) -> None:
        with torchless.pipeline(model=sample_bundle, variant="fp32") as pipe:
            assert pipe("fine")
        with pytest.raises(InferenceError, match="this pipeline is closed"):
            pipe("fine")
        pipe.close()  # a second time does nothing
        for call in (pipe, pipe.explain, lambda text: pipe.warmup()):
            with pytest.raises(InferenceError, match="this pipeline is closed"):
                call("fine")
        assert pipe.variant == "fp32"

    def test_warmup_runs_once_and_gives_the_pipeline_back(self, sample_bundle: Path, shapes: Any) -> None:
        pipe = torchless.pipeline(model=sample_bundle, variant="fp32")
        seen = shapes(pipe)
        assert pipe.warmup() is pipe
        assert pipe.warmup(3, 9) is pipe
        assert pipe.warmup(1, 10_000) is pipe  # cut at the maximum
        assert seen == [(1, 16), (3, 9), (1, 512)]

    def test_warmup_tells_nobody_of_its_own_texts(self, sample_bundle: Path) -> None:
        cut: list[int] = []
        pipe = torchless.pipeline(model=sample_bundle, variant="fp32", truncation=True, on_truncation=cut.append)
        pipe.warmup(1, 10_000)
        assert cut == []
        pipe(TOO_LONG)
        assert cut == [0]

    def test_ids_that_the_model_does_not_have(self, bundle_copy: Path) -> None:
        change(bundle_copy, lambda manifest: None, config={"vocab_size": 100})
        with pytest.raises(BundleError, match=r"ids up to 8191, config.json's vocab_size is 100"):
            torchless.pipeline(model=bundle_copy)

    def test_a_pad_that_the_model_does_not_have(self, bundle_copy: Path) -> None:
        change(bundle_copy, lambda manifest: manifest["tokenizer"].update(pad_id=8192))
        with pytest.raises(BundleError, match=r"token ids up to 8192, config.json's vocab_size is 8192"):
            torchless.pipeline(model=bundle_copy)

    def test_an_output_of_another_task(self, bundle_copy: Path) -> None:
        other = {"name": "last_hidden_state", "dtype": "float32", "axes": ["batch", "sequence", "hidden"]}
        change(bundle_copy, lambda manifest: manifest["variants"]["fp32"].update(output=other))
        with pytest.raises(BundleError, match=r"gives last_hidden_state .* needs logits"):
            torchless.pipeline(model=bundle_copy, variant="fp32")

    def test_a_label_too_many(self, bundle_copy: Path) -> None:
        labels = ["NEGATIVE", "POSITIVE", "NEITHER"]
        config = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
        change(bundle_copy, lambda manifest: manifest.update(labels=labels), config=config)
        with pytest.raises(BundleError, match="the graph gives 2 scores, the manifest names 3 labels"):
            torchless.pipeline(model=bundle_copy, variant="fp32")

    def test_defaults_for_every_call_are_checked_at_once(self, sample_bundle: Path) -> None:
        with pytest.raises(InputTypeError, match="unknown argument 'tokens'"):
            torchless.pipeline(model=sample_bundle, tokens=3)
        pipe = torchless.pipeline(model=sample_bundle, truncation=True, max_length=4)
        assert pipe.preprocess(TOO_LONG)["input_ids"].shape == (1, 4)
        assert pipe.preprocess(TOO_LONG, max_length=6)["input_ids"].shape == (1, 6)


class TestPreprocess:
    def test_one_text(self, pipe: Pipeline) -> None:
        inputs = pipe.preprocess("a fine film")
        assert list(inputs) == ["input_ids", "attention_mask"]
        assert all(array.dtype == np.int64 for array in inputs.values())
        assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (1, 5)
        assert (inputs["attention_mask"] == 1).all()

    def test_several_are_padded_to_the_longest(self, pipe: Pipeline) -> None:
        inputs = pipe.preprocess(TEXTS)
        rows = [pipe.preprocess(text)["input_ids"][0] for text in TEXTS]
        assert inputs["input_ids"].shape == (len(TEXTS), max(map(len, rows)))
        for ids, mask, row in zip(*inputs.values(), rows, strict=True):
            np.testing.assert_array_equal(ids[: len(row)], row)
            np.testing.assert_array_equal(mask, [1] * len(row) + [0] * (len(ids) - len(row)))
            assert (ids[len(row) :] == pipe.tokenizer_spec.pad_id).all()

    def test_a_pair_as_tuple_or_dict(self, pipe: Pipeline) -> None:
        pair = pipe.preprocess(("fine", "dull"))["input_ids"]
        np.testing.assert_array_equal(pair, pipe.preprocess({"text": "fine", "text_pair": "dull"})["input_ids"])
        assert pair.shape == (1, 5)  # [CLS] fine [SEP] dull [SEP]

    def test_none(self, pipe: Pipeline) -> None:
        assert {array.shape for array in pipe.preprocess([]).values()} == {(0, 0)}
        with pytest.raises(InputTypeError):
            pipe.preprocess(None)

    @pytest.mark.parametrize(
        ("arguments", "width"),
        [
            ({}, 5),
            ({"add_special_tokens": False}, 3),
            ({"truncation": True, "max_length": 4}, 4),
            ({"padding": "max_length"}, 512),
            ({"padding": "max_length", "max_length": 9}, 9),
            ({"pad_to_multiple_of": 8}, 5),
            ({"padding": True, "pad_to_multiple_of": 8}, 8),
        ],
    )
    def test_arguments(self, pipe: Pipeline, arguments: dict[str, Any], width: int) -> None:
        inputs = pipe.preprocess("a fine film", **arguments)
        assert inputs["input_ids"].shape == (1, width)
        assert inputs["attention_mask"].sum() == min(width, 3 if "add_special_tokens" in arguments else 5)

    def test_padding_beyond_the_position_table(self, pipe: Pipeline) -> None:
        with pytest.raises(InputError, match="padding to 513 tokens, the model's position table holds 512"):
            pipe.preprocess("fine", padding="max_length", max_length=513)


class TestForward:
    def test_logits(self, pipe: Pipeline) -> None:
        logits = pipe.forward(pipe.preprocess(TEXTS))
        assert logits.dtype == np.float32
        assert logits.shape == (len(TEXTS), 2)
        for row, text in zip(logits, TEXTS, strict=True):
            np.testing.assert_allclose(row, pipe.forward(pipe.preprocess(text))[0], atol=1e-5)

    def test_inputs_that_the_graph_does_not_have(self, pipe: Pipeline) -> None:
        inputs = pipe.preprocess("fine")
        with pytest.raises(InferenceError, match=r"ONNX Runtime failed on input_ids \(1, 3\)"):
            pipe.forward({"input_ids": inputs["input_ids"]})

    @pytest.mark.parametrize("profile", ["latency", "throughput"])
    def test_what_are_no_arrays(self, sample_bundle: Path, profile: str) -> None:
        with torchless.pipeline(model=sample_bundle, variant="fp32", profile=profile) as pipe:
            for wrong in (None, [1, 2], "text"):
                with pytest.raises(InputTypeError, match=r"the inputs are \w+, wanted the arrays that `preprocess`"):
                    pipe.forward(wrong)  # type: ignore[arg-type]
            with pytest.raises(InputError, match=r"the inputs are no arrays: .*; pad them to one length"):
                pipe.forward({"input_ids": [[1, 2], [3]], "attention_mask": [[1, 1], [1]]})  # type: ignore[dict-item]
            lists = {name: array.tolist() for name, array in pipe.preprocess("fine").items()}
            np.testing.assert_array_equal(pipe.forward(lists), pipe.forward(pipe.preprocess("fine")))

    def test_no_text_at_all(self, pipe: Pipeline) -> None:
        logits = pipe.forward(pipe.preprocess([]))
        assert (logits.shape, logits.dtype) == ((0, 2), np.float32)
        assert pipe.postprocess(logits) == pipe([]) == []


class TestNoTokens:
    """transformers fails on a text of no tokens, too, where no other in its batch has some."""

    @pytest.mark.parametrize("text", ["", " \u200b", {"text": "", "text_pair": " "}])
    def test_is_an_error_of_that_text(self, pipe: Pipeline, features_bundle: Path, text: Any) -> None:
        with torchless.pipeline(model=features_bundle, variant="fp32", device="cpu") as embed:
            for call in (pipe, functools.partial(embed, pooling="mean"), functools.partial(embed, pooling="cls")):
                assert len(call([text, "fine"])) == 2
                for given, index in ((text, 0), (["fine", text], 1), (iter(["fine", text]), 1)):
                    with pytest.raises(InputError, match=f"text {index} has no tokens") as caught:
                        list(call(given, add_special_tokens=False))
                    assert caught.value.index == index
        kept = pipe(["fine", text, "dull"], add_special_tokens=False, on_error="return")
        assert [isinstance(answer, InputError) for answer in kept] == [False, True, False]


class TestOverLong:
    """The sample's position table holds 512; where `truncation` cuts is another matter."""

    def test_one(self, pipe: Pipeline) -> None:
        with pytest.raises(InputError, match=r"text 0 has 602 tokens, .* holds 512; pass truncation=True"):
            pipe(TOO_LONG)

    @pytest.mark.parametrize("form", [list, iter])
    @pytest.mark.parametrize("window", [2, 4096])
    def test_the_index_is_the_callers(
        self, pipe: Pipeline, monkeypatch: pytest.MonkeyPatch, form: Any, window: int
    ) -> None:
        monkeypatch.setattr(flow, "WINDOW", window)
        with pytest.raises(InputError, match="text 5 has 602 tokens") as caught:
            list(pipe(form([*TEXTS[:5], TOO_LONG, "fine"]), batch_size=2))
        assert caught.value.index == 5

    @pytest.mark.parametrize("form", [list, iter])
    def test_the_index_of_what_the_tokenizer_refuses(
        self, pipe: Pipeline, monkeypatch: pytest.MonkeyPatch, form: Any
    ) -> None:
        monkeypatch.setattr(flow, "WINDOW", 2)
        with pytest.raises(InputTypeError, match="text 5 holds a lone surrogate") as caught:
            list(pipe(form([*TEXTS[:5], "\ud800", "fine"]), batch_size=2))
        assert caught.value.index == 5

    @pytest.mark.parametrize("form", [list, iter])
    @pytest.mark.parametrize("window", [2, 4096])
    def test_truncation_tells_where(
        self, pipe: Pipeline, monkeypatch: pytest.MonkeyPatch, form: Any, window: int
    ) -> None:
        monkeypatch.setattr(flow, "WINDOW", window)
        cut: list[int] = []
        texts = [TOO_LONG, *TEXTS[:3], TOO_LONG, "fine", TOO_LONG]
        answers = list(pipe(form(texts), batch_size=2, truncation=True, on_truncation=cut.append))
        assert cut == [0, 4, 6]
        assert answers[0] == pytest.approx(answers[6])
        assert len(answers) == len(texts)

    @pytest.mark.parametrize("text", [TOO_LONG, {"text": TOO_LONG}, {"text": "dull", "text_pair": TOO_LONG}])
    def test_truncation_tells_of_one_text(self, pipe: Pipeline, text: Any) -> None:
        cut: list[int] = []
        for step in (pipe, pipe.preprocess, pipe.explain):
            step(text, truncation=True, on_truncation=cut.append)
            assert cut == [0]
            cut.clear()
        pipe("dull", truncation=True, on_truncation=cut.append)
        pipe.preprocess(["dull", text, "dull", text], truncation=True, on_truncation=cut.append)
        assert cut == [1, 3]

    def test_model_max_length_alone_is_no_limit(self, open_changed: Any) -> None:
        pipe = open_changed(max_length=8)
        assert pipe.preprocess(TEXTS[2])["input_ids"].shape == (1, 11)
        assert pipe.preprocess(TEXTS[2], truncation=True)["input_ids"].shape == (1, 8)

    def test_without_a_position_table_nothing_is_too_long_for_the_tokenizer(self, open_changed: Any) -> None:
        pipe = open_changed(max_length=None, position_limit=None)
        assert pipe.preprocess(TOO_LONG)["input_ids"].shape == (1, 602)
        assert pipe.preprocess(TOO_LONG, truncation=True)["input_ids"].shape == (1, 602)


class TestBatches:
    def test_a_list_is_sorted_by_length_and_answered_in_order(
        self, pipe: Pipeline, shapes: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one_by_one = [pipe(text)[0] for text in TEXTS]
        seen = shapes(pipe)
        for answer, wanted in zip(pipe(TEXTS, batch_size=2), one_by_one, strict=True):
            assert answer == pytest.approx(wanted, abs=1e-5)
        assert [rows for rows, _ in seen] == [2, 2, 2]
        assert [width for _, width in seen] == sorted((width for _, width in seen), reverse=True)
        seen.clear()
        pipe(TEXTS)
        assert seen == [(6, 11)]
        seen.clear()
        monkeypatch.setattr(flow, "WINDOW", 4)
        pipe(TEXTS)
        assert [rows for rows, _ in seen] == [4, 2]

    @pytest.mark.parametrize("size", [1, 2, 5, None])
    def test_a_stream_is_read_one_batch_ahead_and_in_order(self, pipe: Pipeline, size: int | None) -> None:
        batch = size or 32
        texts = TEXTS * 12
        read = 0

        def stream() -> Iterator[str]:
            nonlocal read
            for text in texts:
                read += 1
                yield text

        answers = pipe(stream(), batch_size=size)
        assert read == 0
        wanted = pipe(texts)
        for count, answer in enumerate(answers):
            assert answer == pytest.approx(wanted[count], abs=1e-5)
            assert read == min((count // batch + 1) * batch, len(texts))
        assert count == len(texts) - 1

    def test_a_stream_gives_what_came_before_a_wrong_item(self, pipe: Pipeline) -> None:
        answers = pipe(iter(["fine", "dull", None]), batch_size=2)
        assert [next(answers)["label"] for _ in range(2)] == ["POSITIVE", "NEGATIVE"]
        with pytest.raises(InputTypeError, match="input 2 is NoneType"):
            next(answers)

    def test_without_a_pad_token_texts_go_one_by_one(self, open_changed: Any, shapes: Any, pipe: Pipeline) -> None:
        lonely = open_changed(pad_id=None)
        wanted = pipe(TEXTS, batch_size=1)
        seen = shapes(lonely)
        assert lonely(TEXTS) == wanted
        assert list(lonely(iter(TEXTS))) == wanted
        assert [rows for rows, _ in seen] == [1] * 2 * len(TEXTS)
        assert len(lonely(["fine"] * 4, batch_size=2)) == 4  # of one length: nothing to pad
        with pytest.raises(InputError, match=r"^[^\n]*has no pad token; use batch_size=1, without padding$"):
            lonely(TEXTS, batch_size=2)
        with pytest.raises(InputError, match=r"^padding is 'max_length', and the tokenizer has no pad token"):
            lonely("fine", padding="max_length")

    @pytest.mark.parametrize(("size", "wanted"), [(None, [1] * 6), (1, [1] * 6), (4, [4, 2])])
    @pytest.mark.parametrize("form", [list, iter])
    def test_left_padding_keeps_the_order_and_the_batches(
        self,
        open_changed: Any,
        shapes: Any,
        monkeypatch: pytest.MonkeyPatch,
        size: int | None,
        wanted: list[int],
        form: Any,
    ) -> None:
        pipe = open_changed(padding_side="left", batch_size=size)
        monkeypatch.setattr(flow, "WINDOW", 3)  # no window may end within a batch
        seen = shapes(pipe)
        assert len(list(pipe(form(TEXTS)))) == len(TEXTS)
        assert [rows for rows, _ in seen] == wanted
        inputs = pipe.preprocess(["fine", TEXTS[2]])
        np.testing.assert_array_equal(inputs["attention_mask"][0], [0] * 8 + [1] * 3)
        np.testing.assert_array_equal(inputs["input_ids"][0, 8:], pipe.preprocess("fine")["input_ids"][0])

    @pytest.mark.parametrize(("window", "wanted"), [(1, [2, 2, 2]), (3, [2, 2, 2]), (5, [2, 2, 2]), (9, [2, 2, 2])])
    def test_left_padding_keeps_the_batches_in_every_window(
        self, open_changed: Any, shapes: Any, window: int, wanted: list[int]
    ) -> None:
        pipe = open_changed(padding_side="left", batch_size=2)
        seen = shapes(pipe)
        assert len(list(pipe(iter(TEXTS), window=window))) == len(TEXTS)
        assert [rows for rows, _ in seen] == wanted

    @pytest.mark.parametrize("changed", [{"padding_side": "left"}, {"pad_id": None}])
    def test_texts_that_go_one_by_one_are_read_one_by_one(self, open_changed: Any, changed: dict[str, Any]) -> None:
        texts = iter(TEXTS)
        answers = open_changed(**changed)(texts)
        next(answers)
        assert len(list(texts)) == len(TEXTS) - 1
