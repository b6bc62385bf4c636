"""`torchless.pipelines.feature_extraction`: shapes, padding, pooling. What transformers gives is in tests/contract."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import torchless
from torchless.errors import InferenceError, InputError, InputTypeError, TorchlessWarning
from torchless.pipelines.feature_extraction import FeatureExtractionPipeline
from torchless.pipelines.flow import Batch

TEXTS = ["a fine film", "dull", "it is long and it is sad, and nobody laughs", ""]
PAIR = {"text": "a fine film", "text_pair": "dull"}
WIDTH = 128


@pytest.fixture(scope="module")
def features(features_bundle: Path) -> Iterator[FeatureExtractionPipeline]:
    with torchless.pipeline("feature-extraction", features_bundle, device="cpu") as opened:
        assert isinstance(opened, FeatureExtractionPipeline)
        yield opened


def alone(features: FeatureExtractionPipeline, text: Any) -> np.ndarray:
    """Return a text's hidden states (sequence, hidden), by the steps themselves."""
    return features.forward(features.preprocess(text))[0]


class TestShapes:
    def test_one_text_is_nested_lists(self, features: FeatureExtractionPipeline) -> None:
        answer = features("a fine film")
        assert type(answer) is type(answer[0]) is type(answer[0][0]) is list
        assert type(answer[0][0][0]) is float
        np.testing.assert_array_equal(np.array(answer, np.float32), alone(features, "a fine film")[None])

    @pytest.mark.parametrize("inputs", [TEXTS, tuple(TEXTS), [*TEXTS, PAIR]])
    @pytest.mark.parametrize("arguments", [{}, {"batch_size": 1}, {"batch_size": 2}], ids=str)
    def test_a_list_is_one_answer_each_without_padding(
        self, features: FeatureExtractionPipeline, inputs: Any, arguments: dict[str, Any]
    ) -> None:
        answers = features(inputs, **arguments)
        assert type(answers) is list
        for text, answer in zip(inputs, answers, strict=True):
            wanted = alone(features, text)[None]
            assert np.shape(answer) == wanted.shape
            np.testing.assert_allclose(answer, wanted, rtol=0, atol=1e-5)

    def test_a_pair(self, features: FeatureExtractionPipeline) -> None:
        np.testing.assert_array_equal(np.array(features(PAIR), np.float32)[0], alone(features, PAIR))

    @pytest.mark.parametrize("wanted", ["np", True])
    def test_arrays(self, features: FeatureExtractionPipeline, wanted: Any) -> None:
        for text, answer in zip(TEXTS, features(TEXTS, return_tensors=wanted), strict=True):
            assert answer.dtype == np.float32
            assert answer.base is None  # nothing else of its batch is kept in memory
            np.testing.assert_allclose(answer, alone(features, text)[None], rtol=0, atol=1e-5)

    def test_an_iterator_streams(self, features: FeatureExtractionPipeline) -> None:
        read = []

        def texts() -> Iterator[str]:
            for text in TEXTS:
                read.append(text)
                yield text

        stream = features(texts(), batch_size=2, return_tensors="np")
        assert read == []
        first = next(stream)
        assert read == TEXTS[:2]
        rest = list(stream)
        for text, answer in zip(TEXTS, [first, *rest], strict=True):
            np.testing.assert_allclose(answer, alone(features, text)[None], rtol=0, atol=1e-5)

    def test_nothing(self, features: FeatureExtractionPipeline) -> None:
        assert features([]) == []
        assert features([], pooling="mean").shape == (0, WIDTH)
        assert features.forward(features.preprocess([])).shape == (0, 0, WIDTH)

    def test_explicit_padding_does_not_show(self, features: FeatureExtractionPipeline) -> None:
        padded = features("dull", return_tensors="np", padding="max_length", max_length=20, truncation=True)
        np.testing.assert_allclose(padded, alone(features, "dull")[None], rtol=0, atol=1e-5)


class TestPooling:
    @pytest.mark.parametrize("normalize", [False, True])
    @pytest.mark.parametrize("pooling", ["cls", "mean"])
    def test_one_vector_a_text(self, features: FeatureExtractionPipeline, pooling: str, normalize: bool) -> None:
        rows = [alone(features, text) for text in TEXTS]
        wanted = np.stack([row[0] if pooling == "cls" else row.mean(axis=0) for row in rows])
        if normalize:
            wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
        found = features(TEXTS, pooling=pooling, normalize=normalize)
        assert (found.shape, found.dtype) == ((len(TEXTS), WIDTH), np.float32)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
        one = features(TEXTS[0], pooling=pooling, normalize=normalize)
        assert one.shape == (1, WIDTH)
        np.testing.assert_allclose(one, wanted[:1], rtol=0, atol=1e-5)
        streamed = list(features(iter(TEXTS), pooling=pooling, normalize=normalize, batch_size=3))
        np.testing.assert_allclose(np.concatenate(streamed), wanted, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("pooling", ["max", "", "CLS", 3, ["cls"]])
    def test_an_unknown_pooling(self, features: FeatureExtractionPipeline, pooling: Any) -> None:
        hidden = np.zeros((1, 2, 3))
        for call in (
            lambda: features("dull", pooling=pooling),
            lambda: features.postprocess(hidden, pooling=pooling),
        ):
            with pytest.raises(InputError, match=r"pooling is .*, wanted one of cls, mean"):
                call()

    def test_only_pooled_vectors_are_normalized(self, features: FeatureExtractionPipeline) -> None:
        with pytest.raises(InputError, match="normalize=True is for pooled vectors; pass pooling"):
            features("dull", normalize=True)


class TestPostprocess:
    HIDDEN = np.arange(24, dtype=np.float32).reshape(2, 3, 4)

    def test_the_mask_says_what_is_padding(self, features: FeatureExtractionPipeline) -> None:
        left, right = features.postprocess(self.HIDDEN, [[0, 1, 1], [1, 0, 0]])
        assert left == [self.HIDDEN[0, 1:].tolist()]
        assert right == [self.HIDDEN[1, :1].tolist()]
        assert features.postprocess(self.HIDDEN) == [[rows.tolist()] for rows in self.HIDDEN]
        [a, b] = features.postprocess(self.HIDDEN, [[1, 1, 0], [1, 1, 1]], pooling="mean")
        np.testing.assert_array_equal(a, [[2, 3, 4, 5]])
        np.testing.assert_array_equal(b, [[16, 17, 18, 19]])

    @pytest.mark.parametrize(
        ("hidden", "mask", "says"),
        [
            (HIDDEN[0], None, r"the hidden states have the shape \(3, 4\)"),
            (HIDDEN, [[1, 1, 1]], r"the attention mask has the shape \(1, 3\), wanted \(2, 3\)"),
        ],
    )
    def test_what_does_not_fit(self, features: FeatureExtractionPipeline, hidden: Any, mask: Any, says: str) -> None:
        with pytest.raises(InputError, match=says):
            features.postprocess(hidden, mask)

    @given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.sampled_from(["left", "right"]))
    @settings(deadline=None)
    def test_rows_of_padding_are_cut_on_their_side(
        self, features: FeatureExtractionPipeline, lengths: list[int], side: str
    ) -> None:
        rng = np.random.default_rng(0)
        texts = [rng.normal(size=(length, 3)).astype(np.float32) for length in lengths]
        width = max(lengths)
        rows = np.full((len(texts), width, 3), np.nan, np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[slice(0, len(text)) if side == "right" else slice(width - len(text), width)] = text

        class Padding:
            padding_side = side

        class Tokenizer:
            spec = Padding

        stand_in = object.__new__(FeatureExtractionPipeline)
        stand_in._tokenizer = Tokenizer  # type: ignore[assignment]
        for found, text in zip(stand_in._texts(Batch(list(range(len(texts))), lengths, rows)), texts, strict=True):
            np.testing.assert_array_equal(found, text)


class TestArguments:
    def test_both_ways_to_say_them(self, features: FeatureExtractionPipeline, features_bundle: Path) -> None:
        short = features(TEXTS[2], truncation=True, max_length=5)
        assert np.shape(short) == (1, 5, WIDTH)
        assert features(TEXTS[2], tokenize_kwargs={"truncation": True, "max_length": 5}) == short
        assert features(TEXTS[2], truncation=True, tokenize_kwargs={"max_length": 5}) == short
        kwargs = {"truncation": True, "max_length": 5}
        with torchless.pipeline(
            model=features_bundle, device="cpu", tokenize_kwargs=kwargs, return_tensors="np"
        ) as given_once:
            np.testing.assert_array_equal(np.float32(short), given_once(TEXTS[2]))
            again = pickle.loads(pickle.dumps(given_once))
            np.testing.assert_array_equal(np.float32(short), again(TEXTS[2]))

    def test_one_that_stands_twice(self, features: FeatureExtractionPipeline) -> None:
        with pytest.raises(InputError, match="the argument 'truncation' stands twice"):
            features("dull", truncation=True, tokenize_kwargs={"truncation": True})

    @pytest.mark.parametrize("wanted", ["pt", "tf", 2, "list"])
    def test_tensors_of_others(self, features: FeatureExtractionPipeline, features_bundle: Path, wanted: Any) -> None:
        for call in (
            lambda: features("dull", return_tensors=wanted),
            lambda: torchless.pipeline(model=features_bundle, return_tensors=wanted),
        ):
            with pytest.raises(InputError, match=r"return_tensors is .*, wanted 'np'"):
                call()

    @pytest.mark.parametrize("argument", [{"top_k": 2}, {"function_to_apply": "softmax"}], ids=str)
    def test_what_is_for_labels_is_ignored_with_one_warning(
        self, features_bundle: Path, argument: dict[str, Any]
    ) -> None:
        with pytest.warns(TorchlessWarning, match="has no meaning for feature-extraction"):
            torchless.pipeline(model=features_bundle, device="cpu", **argument)
        torchless.pipeline(model=features_bundle, device="cpu", **argument)

    def test_a_text_beyond_the_position_table(self, features: FeatureExtractionPipeline) -> None:
        with pytest.raises(InputError, match="pass truncation=True"):
            features("dull " * 600)
        assert np.shape(features("dull " * 600, truncation=True)) == (1, 512, WIDTH)

    @pytest.mark.parametrize("inputs", [None, 3, [None], ["dull", 3], ["dull", ["sad"]], {"sentence": "dull"}])
    def test_no_texts(self, features: FeatureExtractionPipeline, inputs: Any) -> None:
        with pytest.raises((InputError, InputTypeError)):
            features(inputs)


def test_what_is_not_finite_is_never_a_vector(
    features: FeatureExtractionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        inherited = False

        def run(self, inputs: Any) -> np.ndarray:
            return np.full((*inputs["input_ids"].shape, WIDTH), np.nan, np.float32)

    monkeypatch.setattr(features, "_session", Broken())
    for call in (lambda: features("dull"), lambda: features(TEXTS, pooling="mean")):
        with pytest.raises(InferenceError, match="not finite"):
            call()


def test_the_task_is_the_bundles(features_bundle: Path, sample_bundle: Path) -> None:
    with torchless.pipeline(model=features_bundle, device="cpu") as opened:
        assert (opened.task, opened.labels) == ("feature-extraction", ())
    with pytest.raises(InputError, match="export the checkpoint with --task feature-extraction"):
        torchless.pipeline("feature-extraction", sample_bundle)
    with pytest.raises(InputError, match="export the checkpoint with --task text-classification"):
        torchless.pipeline("sentiment-analysis", features_bundle)


def test_a_directory_in_the_hubs_layout(features_bundle: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "model.onnx"):
        shutil.copyfile(features_bundle / name, tmp_path / name)
    config = json.loads((features_bundle / "config.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["DistilBertModel"]}))
    with pytest.warns(TorchlessWarning, match="unverified"):
        opened = torchless.pipeline(model=tmp_path, device="cpu")
    with opened, torchless.pipeline(model=features_bundle, device="cpu") as verified:
        assert opened.task == "feature-extraction"
        assert opened(TEXTS) == verified(TEXTS)
