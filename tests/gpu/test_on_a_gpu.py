"""What can be seen on a GPU alone: that its numbers are right, whichever way they are asked for."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import torchless
from on_gpu import plain_session
from open_sessions import batch
from torchless import nvidia
from torchless.binding import BoundRunner
from torchless.cuda_graphs import MOST_GRAPHS, GraphRunner
from torchless.devices import CUDA_PROVIDER, Device
from torchless.session import cuda_problem

pytest.importorskip("onnx")
pytest.importorskip("safetensors")

from torchless_export import export, graph
from torchless_export.checkpoint import open_checkpoint
from torchless_export.half import to_float16
from torchless_export.parity import FP16_AGREEMENT, FP16_CHANGE
from torchless_export.weights import Weights

SHARED = Path(__file__).parents[3] / "shared/checkpoints/sst2-minilm"
# float16's 11 bits, through two layers.
NEAR = 0.02
SHAPES = [(1, 1), (1, 16), (3, 7), (8, 33), (32, 32), (64, 512), (5, 512)]


def parity(bundle: Path) -> Any:
    return json.loads((bundle / "torchless.json").read_text())["variants"]["fp16"]["parity"]


def test_the_gpu_judges_the_sample(gpu_bundle: Path) -> None:
    found = parity(gpu_bundle)
    assert found["device"] == "cuda"
    assert found["agreement"] >= FP16_AGREEMENT
    assert found["max_probability"] <= FP16_CHANGE


def test_the_gpu_judges_a_fine_tuned_minilm(tmp_path: Path) -> None:
    if not SHARED.exists():
        pytest.skip("the checkpoint is not there")
    export(SHARED, tmp_path / "bundle", variants=("fp32", "fp16"), tune="1x16,32x32")
    assert parity(tmp_path / "bundle")["device"] == "cuda"
    tuning = json.loads((tmp_path / "bundle/torchless.json").read_text())["variants"]["fp16"]["tuning"]
    assert tuning["processor"] == "cuda:0"
    assert len(tuning["tried"]) == len(graph.candidates("cuda"))


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("form", graph.candidates("cuda"), ids=lambda form: f"{form.attention}-{form.qkv}")
def test_every_form_gives_the_answers_of_the_cpu(
    form: graph.Form, half: bool, sample_checkpoint: Path, in_fp32: Any
) -> None:
    checkpoint = open_checkpoint(sample_checkpoint)
    with Weights(checkpoint) as weights:
        made = graph.build(checkpoint, weights, form=form)
    session = plain_session((to_float16(made) if half else made).SerializeToString(), cuda=True)
    assert session.get_providers()[0] == CUDA_PROVIDER
    for rows, length in SHAPES:
        inputs = batch(rows, length)
        [got], [want] = session.run(None, inputs), in_fp32.run(None, inputs)
        np.testing.assert_allclose(got, want, rtol=0, atol=NEAR if half else 1e-4, err_msg=f"{rows}x{length}")


def test_features_without_padding(sample_checkpoint: Path, tmp_path: Path) -> None:
    """What RestorePadding gives back stands where it was."""
    checkpoint = open_checkpoint(sample_checkpoint, task="feature-extraction")
    inputs = batch(6, 40)
    found = []
    for form in graph.candidates("cuda"):
        with Weights(checkpoint) as weights:
            made = to_float16(graph.build(checkpoint, weights, form=form))
        [hidden] = plain_session(made.SerializeToString(), cuda=True).run(None, inputs)
        found.append(hidden[inputs["attention_mask"] > 0])
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=0, atol=0.05)


@pytest.mark.parametrize("variant", ["fp32", "fp16"])
def test_bound_runs_give_what_plain_runs_give(gpu_bundle: Path, variant: str) -> None:
    plain = plain_session(str(gpu_bundle / {"fp32": "model.onnx", "fp16": "model_fp16.onnx"}[variant]), cuda=True)
    pipeline = torchless.pipeline(model=gpu_bundle, device="cuda", variant=variant, profile="throughput")
    assert isinstance(pipeline._session._run, BoundRunner)
    for seed, (rows, length) in enumerate([*SHAPES, *SHAPES]):
        inputs = batch(rows, length, seed)
        np.testing.assert_array_equal(pipeline.forward(inputs), plain.run(None, inputs)[0])


def test_memory_for_inputs_is_page_locked(gpu_bundle: Path) -> None:
    torchless.pipeline(model=gpu_bundle, device="cuda").warmup()  # loads CUDA
    array = nvidia.page_locked(1000, 0)
    assert array.base is not None, "an ordinary array: CUDA's runtime was not found, or refused"
    assert nvidia.free_memory(0) > 0
    assert nvidia.cuda_versions().keys() == {"CUDA runtime", "cuDNN"}


def test_graphs_give_what_runs_without_them_give(gpu_bundle: Path, in_fp32: Any) -> None:
    pipeline = torchless.pipeline(model=gpu_bundle, device="cuda", variant="fp16")
    runner = pipeline._session._run
    assert isinstance(runner, GraphRunner)
    for seed in range(4):
        for rows, length in [(1, 5), (1, 16), (3, 20), (8, 64), (64, 512)]:
            inputs = batch(rows, length, seed)
            np.testing.assert_allclose(
                pipeline.forward(inputs), in_fp32.run(None, inputs)[0], rtol=0, atol=NEAR, err_msg=f"{rows}x{length}"
            )
    assert pipeline._session.graphs == ("1x8", "1x16", "4x24", "8x64")


def test_graphs_and_other_runs_in_turns_from_many_threads(gpu_bundle: Path, in_fp32: Any) -> None:
    pipeline = torchless.pipeline(model=gpu_bundle, device="cuda", variant="fp16").warmup(1, 16).warmup(4, 32)
    batches = [batch(1 + i % 9, 3 + i * 7 % 60, seed=i) for i in range(300)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(pipeline.forward, batches))
    for got, inputs in zip(found, batches, strict=True):
        np.testing.assert_allclose(got, in_fp32.run(None, inputs)[0], rtol=0, atol=NEAR)
    assert 0 < len(pipeline._session.graphs) <= MOST_GRAPHS


def test_graphs_take_little_memory(gpu_bundle: Path) -> None:
    pipeline = torchless.pipeline(model=gpu_bundle, device="cuda", variant="fp16").warmup(32, 32)
    before = nvidia.free_memory(0)
    for rows in (1, 2):
        for length in range(8, 513, 8):
            pipeline.warmup(rows, length)
    assert len(pipeline._session.graphs) == MOST_GRAPHS
    assert before - nvidia.free_memory(0) < 256 << 20


def test_a_batch_beyond_the_limit_is_run_in_parts(gpu_bundle: Path, in_fp32: Any) -> None:
    pipeline = torchless.pipeline(
        model=gpu_bundle, device="cuda", variant="fp16", profile="throughput", gpu_mem_limit=24 << 20
    )
    inputs = batch(256, 512)
    found = pipeline.forward(inputs)
    assert pipeline._session._too_many is not None, "it did fit: the limit is too large for this test"
    np.testing.assert_allclose(found, in_fp32.run(None, inputs)[0], rtol=0, atol=NEAR)


def test_lists_give_the_answers_of_the_cpu(gpu_bundle: Path) -> None:
    texts = [f"a film of {i} plots and {i % 7} actors " * (1 + i % 5) for i in range(2000)]
    want = torchless.pipeline(model=gpu_bundle, device="cpu", variant="fp32")(texts, truncation=True)
    for profile in ("latency", "throughput"):
        pipeline = torchless.pipeline(model=gpu_bundle, device="cuda", profile=profile)
        found = pipeline(texts, truncation=True)
        assert pipeline.limit in ("tokenizer", "device")
        np.testing.assert_allclose([a["score"] for a in found], [a["score"] for a in want], rtol=0, atol=FP16_CHANGE)


def test_a_second_gpu(gpu_bundle: Path, in_fp32: Any) -> None:
    if cause := cuda_problem(1):
        pytest.skip(cause)
    pipeline = torchless.pipeline(model=gpu_bundle, device="cuda:1").warmup()
    assert pipeline._session._device == Device("cuda", 1)
    inputs = batch(3, 20)
    np.testing.assert_allclose(pipeline.forward(inputs), in_fp32.run(None, inputs)[0], rtol=0, atol=NEAR)
