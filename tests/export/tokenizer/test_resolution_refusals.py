"""What a tokenizer may not be: of unknown settings, broken, or larger than its model."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tokenizers

from torchless.errors import CheckpointError
from torchless_export.checkpoint import open_checkpoint
from torchless_export.tokenizer import resolve

pytest.importorskip("transformers")

from resolved_tokenizers import Families, Write

REFUSED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("bert", {"split_special_tokens": True}, r"split_special_tokens is set, which tokenizer\.json cannot hold"),
    ("bert", {"from_slow": True}, r"from_slow is True, which is not resolved here; torchless\[optimum\]"),
    ("bert", {"init_inputs": ["x"]}, r"init_inputs is \['x'\], which is not resolved here"),
    ("bert", {"fast_tokenizer_files": ["tokenizer.4.0.0.json"]}, "fast_tokenizer_files is .*, which is not resolved"),
    ("bert", {"fix_mistral_regex": True}, "fix_mistral_regex is True"),
    ("bert", {"gguf_file": "x.gguf"}, "gguf_file is 'x.gguf'"),
    ("bert", {"tokenizer_class": 3}, "tokenizer_class is 3, wanted a class's name"),
    ("bert", {"tokenizer_class": "NobodysTokenizer"}, r"\w+ is .*, and what NobodysTokenizer makes of it is not known"),
    ("bert", {"tokenizer_class": "Nobodys", "auto_map": {"AutoTokenizer": ["a.B", None]}}, "Nobodys is code that"),
    ("bert", {"padding_side": "up"}, "no version of transformers can load the tokenizer: padding_side is 'up'"),
    ("bert", {"do_lower_case": "yes"}, "no version of transformers can load the tokenizer: "),
    ("bert", {"added_tokens_decoder": {"x": {}}}, "no version of transformers can load the tokenizer: "),
    ("funnel", {"tokenizer_class": None}, "names no tokenizer_class, and none is known here for the model_type 'fun"),
)  # fmt: skip


@pytest.mark.parametrize(("family", "config", "message"), REFUSED)
def test_what_is_not_understood_is_refused(
    families: Families, write: Write, family: str, config: dict[str, Any], message: str
):
    folder = write(family, families["bert"]["document"], families["bert"]["config"] | config)
    with pytest.raises(CheckpointError, match=message) as caught:
        resolve(open_checkpoint(folder))
    assert "tokenizer_config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_files_are_named(families: Families, write: Write):
    folder = write("bert", families["bert"]["document"] | {"model": {"type": "WordPiece", "vocab": 3}}, {})
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: the tokenizers library [\d.]+ cannot read it"):
        resolve(open_checkpoint(folder))
    folder = write("bert", **families["bert"])
    (folder / "special_tokens_map.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"special_tokens_map\.json: not valid JSON"):
        resolve(open_checkpoint(folder))
    (folder / "special_tokens_map.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"special_tokens_map\.json: not a JSON object"):
        resolve(open_checkpoint(folder))


def test_ids_beyond_the_model_s_are_refused(families: Families, write: Write):
    size = tokenizers.Tokenizer.from_str(json.dumps(families["bert"]["document"])).get_vocab_size()
    config = families["bert"]["config"]
    resolve(open_checkpoint(write("bert", families["bert"]["document"], config, model_config={"vocab_size": size})))
    more = write("bert", families["bert"]["document"], config | {"pad_token": "<e>"}, model_config={"vocab_size": size})
    with pytest.raises(CheckpointError, match=rf"gives the id {size} \('<e>'\), config\.json's vocab_size is {size}"):
        resolve(open_checkpoint(more))
