"""Fixtures for all tests: the sample checkpoint, a bundle of it, and tiny random checkpoints of any family."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fake_hub as hub_server
from checkpoints import CAN_WRITE_GRAPHS, Recipe, save

# A shell's background jobs ignore SIGINT, and what they start inherits that; the tests that interrupt
# a process need it as it is in the foreground.
signal.signal(signal.SIGINT, signal.default_int_handler)

ASSETS = Path(__file__).parent / "assets"


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
    if not CAN_WRITE_GRAPHS:
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
    if not CAN_WRITE_GRAPHS:
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
    with hub_server.serve() as hub:
        yield hub


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that saves a tiny random checkpoint: `make_checkpoint("bert", labels=3, seed=1, **config)`.

    `config` overrides the model's config; `tokenizer` is passed to the tokenizer's constructor.
    """
    pytest.importorskip("transformers")
    pytest.importorskip("torch")

    def make(
        family: str = "distilbert",
        *,
        labels: int = 2,
        seed: int = 0,
        tokenizer: dict[str, Any] | None = None,
        problem_type: str | None = None,
        **config: Any,
    ) -> Path:
        folder = tmp_path_factory.mktemp(family)
        recipe = Recipe(
            family, labels=labels, seed=seed, problem_type=problem_type, options=tokenizer or {}, config=config
        )
        save(recipe, folder)
        return folder

    return make
