"""Checkpoints out of the ordinary, as transformers loads them: stored in halves, by another version, by old tools."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import torchless
from comparison import TRANSFORMERS, Two
from contract_cases import BY_TRANSFORMERS_5, HALF, SPECIAL
from contract_inputs import FORMS, LONG, LONG_PAIR, PAIR, TEXTS
from torchless.errors import TorchlessWarning

# Loaded by transformers 5 alone. torchless exports them, with 4.57.
ONLY_BY_5 = ("5-generic", "5-extra-tokens")
# AlbertTokenizer of transformers 5 gives no token types, of 4.57 it does; torchless answers as what exported it.
WITHOUT_TYPES_IN_5 = ("5-albert",)


def compare(two: Two, sizes: tuple[int, ...] = (1, 2, 7), **arguments: Any) -> None:
    for given, size in itertools.product(FORMS.values(), sizes):
        two.agree(given, batch_size=size, **arguments)
        two.agree(given, batch_size=size, top_k=None, **arguments)
        two.agree(given, batch_size=size, truncation=True, max_length=8, **arguments)


@pytest.mark.parametrize("case", HALF)
def test_weights_in_halves_answer_as_in_float32(open_two: Callable[..., Two], case: str) -> None:
    compare(open_two(case))


@pytest.mark.parametrize("case", BY_TRANSFORMERS_5)
def test_saved_by_transformers_5(
    open_two: Callable[..., Two], checkpoint_of: Callable[[str], Path], bundle_of: Callable[..., Path], case: str
) -> None:
    if case in ONLY_BY_5 and TRANSFORMERS < (5, 0):
        with pytest.raises((ValueError, AttributeError)):
            open_two(case)
        ours = torchless.pipeline(model=bundle_of(case), device="cpu")
        assert len(ours(TEXTS)) == len(TEXTS)
        return
    typed = case in WITHOUT_TYPES_IN_5 and TRANSFORMERS >= (5, 0)
    two = open_two(case)
    compare(two, **({"return_token_type_ids": True} if typed else {}))
    two.agree(["<extra> a film", "a <more>", "<mask>[MASK]"])


@pytest.mark.parametrize("case", sorted(SPECIAL.keys() - {"no-pad-token", "no-mask"}))
def test_out_of_the_ordinary(open_two: Callable[..., Two], case: str) -> None:
    if case == "one-label-single" and TRANSFORMERS >= (5, 0):
        pytest.skip("transformers 5 refuses this config")
    compare(open_two(case))


def test_without_a_pad_token(open_two: Callable[..., Two]) -> None:
    two = open_two("no-pad-token")
    assert two.ours.tokenizer_spec.pad_id is None
    compare(two, sizes=(1,))
    for given in FORMS.values():
        two.agree(given)
    two.refuse(TEXTS, batch_size=2)
    for padding in (True, "longest", "max_length"):
        two.refuse("bad", padding=padding)
        two.refuse(TEXTS, padding=padding)


def test_without_a_mask_by_its_tokenizer(open_two: Callable[..., Two]) -> None:
    compare(open_two("no-mask"), sizes=(1,))  # for others see test_differences.py


def test_without_a_maximum(open_two: Callable[..., Two]) -> None:
    two = open_two("no-maximum")
    two.agree(TEXTS, padding="max_length")
    with pytest.raises((RuntimeError, IndexError)):
        two.theirs(LONG, truncation=True)  # theirs cuts nowhere
    assert two.ours.max_length == 62  # the position table less RoBERTa's two
    assert two.ours(LONG, truncation=True) == two.ours(LONG, truncation=True, max_length=62)


def test_a_maximum_beyond_the_position_table(open_two: Callable[..., Two]) -> None:
    two = open_two("maximum-beyond-the-table")
    with pytest.raises((RuntimeError, IndexError)):
        two.theirs(LONG, truncation=True)
    assert two.ours.max_length == 64
    two.agree([LONG, "bad"], truncation=True, max_length=64)


def test_texts_are_cut_on_the_left(open_two: Callable[..., Two]) -> None:
    two = open_two("left-truncation")
    for given in ([LONG, "bad"], LONG_PAIR, TEXTS):
        two.agree(given, truncation=True)
        two.agree(given, truncation=True, max_length=6)


def test_what_tokenizer_json_stores_of_padding(open_two: Callable[..., Two], bundle_of: Callable[..., Path]) -> None:
    two = open_two("stored-padding")
    assert two.ours.tokenizer_spec.padding_side == two.theirs.tokenizer.padding_side == "left"
    assert two.ours.preprocess(TEXTS[2])["input_ids"].shape[1] > 8  # neither cut at 5 nor padded to 20
    two.agree([LONG[:150], "bad", PAIR])
    two.agree(TEXTS, batch_size=4)


def test_the_hubs_layout_of_a_checkpoint(
    open_two: Callable[..., Two], checkpoint_of: Callable[[str], Path], bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    """The files as they are published, with nothing resolved by an export, but for the graph."""
    for case in ("stored-padding", "no-token-types", "left-truncation", "bert-bpe-raw-4-multi-left"):
        folder = tmp_path / case
        folder.mkdir()
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes((checkpoint_of(case) / name).read_bytes())
        (folder / "model.onnx").write_bytes((bundle_of(case) / "model.onnx").read_bytes())
        with pytest.warns(TorchlessWarning, match="unverified"):
            ours = torchless.pipeline(model=folder, device="cpu", threads=1)
        compare(Two(ours, open_two(case).theirs))
