"""What a directory without a manifest says of its tokenizer: lengths, padding and sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

import torchless
from hub_layouts import UNVERIFIED
from json_files import change_json
from torchless.errors import TorchlessWarning
from torchless.hub_layout import open_unverified, read_tokenizer_spec


class TestTokenizerSpec:
    TOKENIZER: ClassVar = {
        "added_tokens": [{"content": "[PAD]", "id": 7}],
        "model": {"vocab": {"[PAD]": 8, "<pad>": 9}},
    }

    @pytest.mark.parametrize(
        ("given", "wanted"),
        [
            (128, 128),
            (600, 512),  # never beyond the position table
            (int(1e30), 512),
            (1e30, 512),
            (0, 512),
            (-1, 512),
            (None, 512),
            ("128", 512),
        ],
    )
    def test_model_max_length(self, layout: Path, given: Any, wanted: int) -> None:
        change_json(layout / "tokenizer_config.json", model_max_length=given)
        with pytest.warns(TorchlessWarning, match=UNVERIFIED):
            pipe = torchless.pipeline(model=layout, variant="fp32")
        assert pipe.max_length == wanted
        assert pipe.preprocess("dull " * 700, truncation=True)["input_ids"].shape == (1, wanted)

    @pytest.mark.parametrize(
        ("pad_token", "pad_token_id", "wanted"),
        [
            ("[PAD]", None, 7),
            ({"content": "[PAD]", "special": True}, None, 7),
            ("<pad>", None, 9),
            ("<pad>", 3, 9),
            ("<none>", 3, 3),
            ("<none>", -1, None),
            ("<none>", 10**30, None),
            ("<none>", "3", None),
            (None, 3, None),  # a model's id alone is no promise that the tokenizer has the token
            ("", 3, None),
            (["[PAD]"], 3, None),
            ({"content": ["[PAD]"]}, 3, None),
        ],
    )
    def test_pad_id(self, pad_token: Any, pad_token_id: Any, wanted: int | None) -> None:
        config = {"pad_token_id": pad_token_id}
        assert read_tokenizer_spec(self.TOKENIZER, {"pad_token": pad_token}, config, 512).pad_id == wanted

    @pytest.mark.parametrize(
        "tokenizer",
        [
            {},
            {"added_tokens": None, "model": None},
            {"added_tokens": {"[PAD]": 0}, "model": []},
            {"added_tokens": ["[PAD]", None, {"content": ["[PAD]"], "id": 0}, {"content": "[PAD]", "id": "0"}]},
            {"model": {"vocab": [["[PAD]", -1.0]]}},
        ],
    )
    def test_a_broken_tokenizer_has_no_pad_token(self, tokenizer: dict[str, Any]) -> None:
        assert read_tokenizer_spec(tokenizer, {"pad_token": "[PAD]"}, {}, None).pad_id is None

    @pytest.mark.parametrize(
        ("given", "wanted"), [({"padding_side": "left"}, "left"), ({"padding_side": "up"}, "right"), ({}, "right")]
    )
    def test_padding_side(self, given: dict[str, Any], wanted: str) -> None:
        assert read_tokenizer_spec({}, given, {}, None).padding_side == wanted

    def test_what_the_config_leaves_open_is_as_the_tokenizer_was_last_used(self) -> None:
        padding = {"direction": "Left", "pad_token": "[PAD]", "pad_id": 4, "pad_type_id": 2}
        used = self.TOKENIZER | {"padding": padding, "truncation": {"direction": "Left", "max_length": 5}}
        spec = read_tokenizer_spec(used, {}, {}, 512)
        assert (spec.padding_side, spec.truncation_side, spec.pad_type_id) == ("left", "left", 2)
        assert spec.pad_id == read_tokenizer_spec(used, {"pad_token": "[PAD]"}, {}, 512).pad_id is not None
        assert spec.max_length == 512
        config = {"padding_side": "right", "truncation_side": "right", "pad_token_type_id": 0, "pad_token": None}
        spec = read_tokenizer_spec(used, config, {}, 512)
        assert (spec.padding_side, spec.truncation_side, spec.pad_type_id) == ("right", "right", 0)
        assert spec.pad_id is None
        assert read_tokenizer_spec({"padding": "left", "truncation": 5}, {}, {}, None).padding_side == "right"

    @pytest.mark.parametrize(
        ("given", "wanted"),
        [
            ({}, True),
            ({"model_input_names": ["input_ids", "token_type_ids"]}, True),
            ({"model_input_names": ["input_ids", "attention_mask"]}, False),
            ({"model_input_names": 3}, True),
        ],
    )
    def test_whether_there_are_token_types(self, given: dict[str, Any], wanted: bool) -> None:
        inputs = read_tokenizer_spec({}, given, {}, None).inputs
        assert inputs == ("input_ids", "attention_mask", "token_type_ids")[: 2 + wanted]

    @pytest.mark.parametrize(("given", "wanted"), [(3, 3), (-1, 0), (10**30, 0), ("3", 0), (None, 0)])
    def test_pad_type_id(self, given: Any, wanted: int) -> None:
        assert read_tokenizer_spec({}, {"pad_token_type_id": given}, {}, None).pad_type_id == wanted


@pytest.mark.parametrize(("given", "wanted"), [("left", "left"), ("right", "right"), ("middle", "right"), (1, "right")])
def test_the_side_on_which_texts_are_cut(layout: Path, given: object, wanted: str) -> None:
    change_json(layout / "tokenizer_config.json", truncation_side=given)
    with pytest.warns(TorchlessWarning, match=UNVERIFIED):
        assert open_unverified(layout).manifest.tokenizer.truncation_side == wanted
