"""Where torchless differs from transformers on purpose: each test names the difference, and says why.

Everything else is in the other modules here, where the two agree.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import torchless
from comparison import TRANSFORMERS, Two, close, form
from contract_inputs import LONG, PAIR, TEXTS
from torchless.errors import InferenceError, InputError, InputTypeError, TorchlessWarning, UnknownFunctionError

FIVE = TRANSFORMERS >= (5, 0)
BARE = form({"label": "LABEL_0", "score": 0.5})


def same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert [answer["label"] for answer in ours] == [answer["label"] for answer in theirs]
    assert [answer["score"] for answer in ours] == close([answer["score"] for answer in theirs])


class TestInputs:
    def test_a_tuple_is_a_list(self, sample: Two) -> None:
        # transformers gives the first answer alone where the texts are of one length, else it fails.
        assert list(sample.theirs(("bad", "never"))) == ["label", "score"]
        with pytest.raises(ValueError):
            sample.theirs(("bad", "a good film"))
        for texts in (["bad", "never"], ["bad", "a good film"]):
            same(sample.ours(tuple(texts)), sample.theirs(texts))

    def test_whatever_can_be_iterated_is_a_stream(self, sample: Two) -> None:
        # transformers takes generators and PyTorch's datasets alone.
        for make in (iter, np.array, lambda texts: dict.fromkeys(texts).keys()):
            with pytest.raises(ValueError):
                sample.theirs(make(TEXTS))
            same(list(sample.ours(make(TEXTS))), sample.theirs(TEXTS))

    def test_no_texts_give_no_answers(self, sample: Two) -> None:
        # In transformers 5 nothing at all is an IndexError, in 4.57 an empty tuple is.
        for nothing in ([], ()):
            assert sample.ours(nothing) == []
            if FIVE or nothing == ():
                with pytest.raises(IndexError):
                    sample.theirs(nothing)

    def test_a_dict_holds_one_text(self, sample: Two) -> None:
        # transformers answers the first of several of one length, and fails on others.
        assert list(sample.theirs({"text": ["bad", "never"]})) == ["label", "score"]
        with pytest.raises(InputTypeError, match="wanted a string or a dict of text and text_pair"):
            sample.ours({"text": ["bad", "never"]})

    def test_a_tuple_in_a_list_is_no_text(self, sample: Two) -> None:
        # transformers answers for its first text: a pair it is not.
        [answer] = sample.theirs([("bad", "never")])
        assert answer["score"] == close(sample.theirs("bad")[0]["score"])
        with pytest.raises(InputTypeError, match="input 0 is tuple"):
            sample.ours([("bad", "never")])

    def test_tokenizer_arguments_are_the_calls(self, sample: Two) -> None:
        # transformers passes every key of an item on to its tokenizer.
        sample.theirs({"text": LONG, "truncation": True})
        with pytest.raises(InputError, match="has the key 'truncation', wanted text and text_pair"):
            sample.ours({"text": LONG, "truncation": True})


class TestStreams:
    def test_an_iterator_of_answers_is_one(self, sample: Two) -> None:
        # transformers' answers must be asked for an iterator first, and start anew each time they are.
        from transformers.pipelines.pt_utils import KeyDataset

        dataset = KeyDataset([{"text": text} for text in TEXTS], "text")
        theirs = sample.theirs(dataset)
        with pytest.raises(AttributeError):
            next(theirs)
        assert len(list(theirs)) == len(list(theirs)) == len(TEXTS)
        ours = sample.ours(dataset)
        first = next(ours)
        same([first, *ours], sample.theirs(TEXTS))
        assert list(ours) == []

    def test_their_length_counts_batches(self, sample: Two) -> None:
        from transformers.pipelines.pt_utils import KeyDataset

        dataset = KeyDataset([{"text": text} for text in TEXTS], "text")
        assert len(sample.theirs(dataset, batch_size=4)) == 2
        assert len(sample.ours(dataset, batch_size=4)) == len(TEXTS)

    def test_unasked_a_batch_of_a_stream_has_more_than_one_text(self, sample: Two) -> None:
        # In transformers it has one. A source that waits for answers needs batch_size=1.
        for arguments, ours in (({}, 32), ({"batch_size": 1}, 1)):
            for pipe, wanted in ((sample.ours, ours), (sample.theirs, 1)):
                read: list[int] = []
                next(iter(pipe((read.append(i) or "bad" for i in range(100)), **arguments)))
                assert len(read) == wanted


class TestArguments:
    @pytest.mark.parametrize("top_k", [0, -1])
    def test_top_k_is_at_least_1(self, sample: Two, top_k: int) -> None:
        assert len(sample.theirs("bad", top_k=top_k)) == 2 + (top_k or -2)  # an empty answer, or all but the last
        with pytest.raises(InputError, match="wanted a whole number from 1"):
            sample.ours("bad", top_k=top_k)

    @pytest.mark.parametrize(("top_k", "wanted"), [("2", BARE), (2.0, BARE), (True, [BARE])])
    def test_top_k_is_a_whole_number(self, sample: Two, top_k: Any, wanted: Any) -> None:
        # transformers ignores what is none, but for the shape of the answer; True is 1 there.
        assert form(sample.theirs("bad", top_k=top_k)) == wanted
        with pytest.raises(InputTypeError, match="wanted a whole number from 1"):
            sample.ours("bad", top_k=top_k)

    def test_top_k_of_numpy(self, sample: Two) -> None:
        assert form(sample.theirs("bad", top_k=np.int64(2))) == BARE  # ignored
        assert len(sample.ours("bad", top_k=np.int64(2))) == 2

    def test_an_unknown_function_is_an_error_that_names_the_known(self, sample: Two) -> None:
        with pytest.raises(UnknownFunctionError, match="wanted one of softmax, sigmoid, none"):
            sample.ours("bad", function_to_apply="relu")

    def test_unknown_arguments_are_refused(self, sample: Two) -> None:
        # As in transformers 4.57; 5 ignores them silently, misspelt ones too.
        if FIVE:
            assert sample.theirs("bad", truncatoin=True) == sample.theirs("bad")
        with pytest.raises(InputTypeError, match="unknown argument 'truncatoin'"):
            sample.ours("bad", truncatoin=True)

    @pytest.mark.skipif(not FIVE, reason="transformers 4.57 has return_all_scores")
    def test_return_all_scores_is_that_of_4(self, sample: Two) -> None:
        assert sample.theirs("bad", return_all_scores=True) == sample.theirs("bad")  # ignored
        with pytest.warns(TorchlessWarning, match="return_all_scores is deprecated"):
            assert len(sample.ours("bad", return_all_scores=True)[0]) == 2

    @pytest.mark.filterwarnings("ignore:`return_all_scores` is now deprecated:UserWarning")
    def test_return_all_scores_of_a_config_is_not_read(
        self, checkpoint_of: Callable[[str], Path], sample: Two, tmp_path: Path
    ) -> None:
        # As in transformers 5: the shape of an answer follows from the call.
        import transformers

        shutil.copytree(checkpoint_of("sample"), tmp_path / "changed")
        path = tmp_path / "changed" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | {"return_all_scores": True}), encoding="utf-8")
        theirs = transformers.pipeline("text-classification", str(tmp_path / "changed"), device="cpu")
        assert form(theirs("bad")) == ([BARE] if FIVE else [[BARE] * 2])
        assert form(sample.ours("bad")) == [BARE]

    @pytest.mark.parametrize("length", [0, 1])
    def test_a_length_without_room_is_refused(self, sample: Two, length: int) -> None:
        # The tokenizers library then cuts nothing.
        same(sample.theirs("a good film", truncation=True, max_length=length), sample.theirs("a good film"))
        with pytest.raises(InputError, match="max_length is"):
            sample.ours("a good film", truncation=True, max_length=length)

    @pytest.mark.parametrize(
        "argument",
        [
            {"return_overflowing_tokens": True},
            {"return_special_tokens_mask": True},
            {"return_offsets_mapping": True},
            {"return_length": True},
            {"clean_up_tokenization_spaces": True},
        ],
        ids=str,
    )
    def test_outputs_that_no_pipeline_uses_are_not_made(self, sample: Two, argument: dict[str, Any]) -> None:
        # transformers 4.57 passes them on to the model, which fails; 5 ignores them too.
        if not FIVE:
            with pytest.raises(TypeError):
                sample.theirs("a good film", **argument)
        with pytest.warns(TorchlessWarning, match="has no meaning here and is ignored"):
            same(sample.ours("a good film", **argument), sample.theirs("a good film", **argument if FIVE else {}))

    def test_a_stride_is_not_looked_at(self, sample: Two) -> None:
        # It says by how much the pieces of a cut text overlap; the first piece alone is classified.
        with pytest.raises(ValueError):
            sample.theirs(LONG, truncation=True, max_length=8, stride=8)
        with pytest.warns(TorchlessWarning, match="'stride' has no meaning here"):
            same(
                sample.ours(LONG, truncation=True, max_length=8, stride=8),
                sample.theirs(LONG, truncation=True, max_length=8, stride=2),
            )

    @pytest.mark.parametrize(
        "argument", [{"split_special_tokens": True}, {"padding_side": "left"}, {"is_split_into_words": False}], ids=str
    )
    def test_tokenizer_arguments_that_are_not_there(self, sample: Two, argument: dict[str, Any]) -> None:
        # Refused by name, since an answer without them would be another one.
        assert sample.theirs("a good film", **argument)
        with pytest.raises(InputTypeError, match="unknown argument"):
            sample.ours("a good film", **argument)

    def test_a_wrong_batch_size_is_always_told(self, sample: Two) -> None:
        assert sample.theirs("bad", batch_size=0)  # one text has no batch
        with pytest.raises(InputError, match="batch_size is 0"):
            sample.ours("bad", batch_size=0)


class TestModels:
    def test_over_long_texts_are_refused_by_number(self, sample: Two) -> None:
        # In transformers they fail deep inside the model.
        with pytest.raises((IndexError, RuntimeError)):
            sample.theirs(LONG)
        with pytest.raises(InputError, match=r"^text 1 has 642 tokens, .* holds 512; pass truncation=True to cut it$"):
            sample.ours(["bad", LONG])

    def test_a_batch_of_one_length_needs_no_pad_token(self, open_two: Callable[..., Two]) -> None:
        two = open_two("no-pad-token")
        with pytest.raises(ValueError):
            two.theirs(["bad", "bad"], batch_size=2)
        same(two.ours(["bad", "bad"], batch_size=2), two.theirs(["bad", "bad"]))

    def test_padding_is_never_attended_to(self, open_two: Callable[..., Two]) -> None:
        # transformers does where the tokenizer makes no mask, and a text's answer depends on its batch.
        two = open_two("no-mask")
        alone = two.theirs(TEXTS)
        assert abs(two.theirs(TEXTS, batch_size=6)[1]["score"] - alone[1]["score"]) > 1e-4
        same(two.ours(TEXTS, batch_size=6), alone)
        named = open_two("bert-wordpiece-raw-2-single-right")
        assert abs(
            named.theirs(TEXTS, batch_size=6, return_attention_mask=False)[1]["score"] - named.theirs("bad")[0]["score"]
        ) > 1e-4  # fmt: skip
        with pytest.warns(TorchlessWarning, match="'return_attention_mask' has no meaning here"):
            same(named.ours(TEXTS, batch_size=6, return_attention_mask=False), named.theirs(TEXTS))

    def test_weights_in_halves_are_computed_in_float32(
        self, checkpoint_of: Callable[[str], Path], open_two: Callable[..., Two]
    ) -> None:
        # transformers' pipelines compute in the type that is stored, unless they are told otherwise.
        import transformers

        halves = transformers.pipeline("text-classification", str(checkpoint_of("float16-bert")), device="cpu")
        two = open_two("float16-bert")
        stored, ours, wide = (
            [answer["score"] for answer in pipe(TEXTS, top_k=1, function_to_apply="none")[0]]
            for pipe in (halves, two.ours, two.theirs)
        )
        assert ours == close(wide)
        assert stored != close(wide)

    @pytest.mark.parametrize("logit", [float("nan"), float("inf")])
    @pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
    def test_what_is_not_finite_is_no_answer(self, sample: Two, logit: float) -> None:
        import torch

        assert sample.theirs.postprocess({"logits": torch.tensor([[logit, 0.0]])})["label"]
        with pytest.raises(InferenceError, match="not finite"):
            sample.ours.postprocess(np.array([[logit, 0.0]], np.float32))

    @pytest.mark.skipif(not FIVE, reason="a change of transformers 5")
    def test_tokenizers_are_those_of_the_transformers_that_exported(self, open_two: Callable[..., Two]) -> None:
        # AlbertTokenizer of 5 gives no token types, of 4.57 it does: answers to pairs are those of 4.57.
        two = open_two("5-albert")
        with pytest.raises(AssertionError):
            two.agree(PAIR)
        two.agree(PAIR, return_token_type_ids=True)


class TestConstructor:
    def test_arguments_about_pytorch_are_ignored(self, bundle_of: Callable[..., Path]) -> None:
        with pytest.warns(TorchlessWarning, match="'dtype' has no meaning here and is ignored"):
            torchless.pipeline("text-classification", bundle_of("sample"), dtype="float16")

    def test_a_models_code_is_never_run(self, bundle_of: Callable[..., Path]) -> None:
        with pytest.raises(InputError, match="trust_remote_code=True is refused"):
            torchless.pipeline("text-classification", bundle_of("sample"), trust_remote_code=True)

    def test_no_model_is_chosen_for_anyone(self) -> None:
        # transformers fetches a default one.
        with pytest.raises(InputError, match="no model given"):
            torchless.pipeline("text-classification")
