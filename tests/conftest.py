"""Fixtures for all tests: the sample checkpoint, a bundle of it, and tiny random checkpoints of any family."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# A shell's background jobs ignore SIGINT, and what they start inherits that; the tests that interrupt
# a process need it as it is in the foreground.
signal.signal(signal.SIGINT, signal.default_int_handler)

ASSETS = Path(__file__).parent / "assets"

CAN_EXPORT = all(
    importlib.util.find_spec(name) for name in ("torchless_export", "onnx", "optimum", "transformers", "torch")
)

# Small, and still a bit of everything that encoders do.
_SIZES: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64},
    "albert": {"embedding_size": 16, "num_hidden_groups": 1},
}
_COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
_COUNT_FROM_PAD = ("roberta", "xlm-roberta", "camembert", "mpnet")
_WORDS = (
    "the a an and or not is was it this that film movie book plot actor good bad great dull love hate never ever "
    "fine funny sad long short i you he she we they of in on at to for with as by from but so very too waiting life"
)


@pytest.fixture(autouse=True)
def fresh_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test see the warnings that a process gives once."""
    monkeypatch.setattr("torchless.errors._given", set())


@pytest.fixture(scope="session")
def sample_checkpoint() -> Path:
    """The sample checkpoint that ships with the repository."""
    return ASSETS / "sst2-tiny"


@pytest.fixture(scope="session")
def sample_bundle(tmp_path_factory: pytest.TempPathFactory, sample_checkpoint: Path) -> Path:
    """A bundle of the sample checkpoint, fp32 and int8. Do not change it: copy it (see `bundle_copy`)."""
    given = os.environ.get("TORCHLESS_TEST_BUNDLE")
    if given:
        return Path(given)
    if not CAN_EXPORT:
        pytest.skip("nothing here can export the sample; name a bundle of it in TORCHLESS_TEST_BUNDLE")
    from torchless_export import export

    target = tmp_path_factory.mktemp("sample") / "bundle"
    export(sample_checkpoint, target)
    return target


@pytest.fixture(scope="session")
def features_bundle(tmp_path_factory: pytest.TempPathFactory, sample_checkpoint: Path) -> Path:
    """A bundle of the sample checkpoint for feature-extraction, fp32. Do not change it."""
    given = os.environ.get("TORCHLESS_TEST_FEATURES_BUNDLE")
    if given:
        return Path(given)
    if not CAN_EXPORT:
        pytest.skip("nothing here can export the sample; name such a bundle in TORCHLESS_TEST_FEATURES_BUNDLE")
    from torchless_export import export

    target = tmp_path_factory.mktemp("features") / "bundle"
    export(sample_checkpoint, target, task="feature-extraction", variants=("fp32",))
    return target


@pytest.fixture
def bundle_copy(sample_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the sample bundle that a test may damage."""
    return Path(shutil.copytree(sample_bundle, tmp_path / "copy"))


@pytest.fixture
def fake_hub() -> Iterator[Any]:
    """A Hugging Face hub on 127.0.0.1: a `tests/fake_hub.py:FakeHub`, empty."""
    # By its path: with --import-mode=importlib nothing beside the tests can be imported by name.
    spec = importlib.util.spec_from_file_location("fake_hub", Path(__file__).with_name("fake_hub.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["fake_hub"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.serve() as hub:
        yield hub


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that saves a tiny random checkpoint: `make_checkpoint("bert", labels=3, seed=1, **config)`.

    `config` overrides the model's config; `tokenizer` is passed to the tokenizer's constructor.
    """
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")

    def make(
        family: str = "distilbert",
        *,
        labels: int = 2,
        seed: int = 0,
        tokenizer: dict[str, Any] | None = None,
        **config: Any,
    ) -> Path:
        folder = tmp_path_factory.mktemp(family)
        fast = _word_piece(transformers, family, tokenizer or {})
        fast.save_pretrained(folder)
        sizes = _SIZES["distilbert"] if family == "distilbert" else _COMMON | _SIZES.get(family, {})
        given = {"vocab_size": len(fast), "pad_token_id": fast.pad_token_id, "num_labels": labels} | sizes | config
        torch.manual_seed(seed)
        built = transformers.AutoModelForSequenceClassification.from_config(
            transformers.AutoConfig.for_model(family, **given)
        )
        with torch.no_grad():
            for parameter in built.parameters():  # random heads start near zero, where every label is a tie
                if parameter.ndim > 1:
                    parameter.mul_(4.0)
        built.save_pretrained(folder)
        return folder

    return make


def _word_piece(transformers: Any, family: str, options: dict[str, Any]) -> Any:
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, processors

    # RoBERTa-like models count positions from the pad token's id, which is 1 there.
    special = (
        ["[CLS]", "[PAD]", "[SEP]", "[UNK]"] if family in _COUNT_FROM_PAD else ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    )
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789.,!?'")
    vocabulary = dict.fromkeys([*special, "[MASK]", *_WORDS.split(), *letters, *(f"##{c}" for c in letters)])
    ids = {token: i for i, token in enumerate(vocabulary)}
    backend = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    named = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    inputs = (
        ["input_ids", "token_type_ids", "attention_mask"]
        if family in ("bert", "electra", "albert")
        else ["input_ids", "attention_mask"]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=inputs, **({"model_max_length": 62, **named} | options)
    )
