"""Sessions and pipelines on CUDA, with the CPU in its place: what is asked of it, and that the answers are right."""

from __future__ import annotations

import gc
import json
import pickle
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

import cuda_on_cpu
import torchless
from checkpoints import CAN_WRITE_GRAPHS
from torchless import session
from torchless.binding import BoundRunner
from torchless.cuda_graphs import GraphRunner
from torchless.errors import BundleError, InputError, ProviderError, TorchlessWarning

TEXTS = ["a good film", "Bad, bad, bad.", "", "what a waste of life!", "a film , a plot and an actor " * 3]
PLAIN = {"device_id": "0", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}


@pytest.fixture(scope="module")
def bundle(sample_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not CAN_WRITE_GRAPHS:
        pytest.skip("nothing here can export the sample in fp16")
    from torchless_export import export

    target = tmp_path_factory.mktemp("cuda") / "bundle"
    export(sample_checkpoint, target, variants=("fp32", "fp16"), calibration=TEXTS)
    return target


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An ONNX Runtime with a CUDA provider that works."""
    runtime = cuda_on_cpu.runtime()
    monkeypatch.setattr(session, "_onnxruntime", lambda: runtime)
    monkeypatch.setattr(session, "cuda_problem", lambda index: None)
    return runtime


def on_cuda(bundle: Path, **options: Any) -> Any:
    """Open a pipeline that no GPU has judged yet."""
    options = {"device": "cuda"} | options
    if options.get("variant") == "fp32":
        return torchless.pipeline(model=bundle, **options)
    with pytest.warns(TorchlessWarning, match="not yet on a GPU"):
        return torchless.pipeline(model=bundle, **options)


@pytest.mark.parametrize(
    ("options", "variant", "provider", "runner"),
    [
        ({}, "fp16", PLAIN | {"enable_cuda_graph": "1"}, GraphRunner),
        ({"device": "cuda:1"}, "fp16", PLAIN | {"enable_cuda_graph": "1", "device_id": "1"}, GraphRunner),
        ({"device": 2}, "fp16", PLAIN | {"enable_cuda_graph": "1", "device_id": "2"}, GraphRunner),
        ({"device": "auto"}, "fp16", PLAIN | {"enable_cuda_graph": "1"}, GraphRunner),
        ({"profile": "throughput"}, "fp16", PLAIN, BoundRunner),
        ({"variant": "fp32"}, "fp32", PLAIN, BoundRunner),
        (
            {"variant": "fp32", "gpu_mem_limit": 1 << 30}, "fp32",
            PLAIN | {"gpu_mem_limit": "1073741824", "arena_extend_strategy": "kSameAsRequested"}, BoundRunner,
        ),
    ],
)  # fmt: skip
def test_what_is_opened(
    cuda: SimpleNamespace, bundle: Path, options: dict[str, Any], variant: str, provider: dict[str, str], runner: type
) -> None:
    pipeline = on_cuda(bundle, **options)
    [(asked, _)] = cuda.opened
    assert asked == provider
    assert (pipeline.variant, pipeline.provider) == (variant, "CUDAExecutionProvider")
    assert isinstance(pipeline._session._run, runner)


@pytest.mark.parametrize("options", [{}, {"profile": "throughput"}, {"variant": "fp32"}])
def test_answers_are_those_of_the_cpu(cuda: SimpleNamespace, bundle: Path, options: dict[str, Any]) -> None:
    pipeline = on_cuda(bundle, **options)
    near = 1e-5 if pipeline.variant == "fp32" else 5e-3
    for _ in range(3):  # as it is, recorded, replayed
        found = [*pipeline(TEXTS), pipeline(TEXTS[0])[0], pipeline({"text": "a film", "text_pair": "a good one"})]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "_onnxruntime", lambda: onnxruntime)
        cpu = torchless.pipeline(model=bundle, device="cpu", variant="fp32")
        want = [*cpu(TEXTS), cpu(TEXTS[0])[0], cpu({"text": "a film", "text_pair": "a good one"})]
    assert [answer["label"] for answer in found] == [answer["label"] for answer in want]
    np.testing.assert_allclose(
        [answer["score"] for answer in found], [answer["score"] for answer in want], rtol=0, atol=near
    )


def test_inputs_go_over_in_one_copy(cuda: SimpleNamespace, bundle: Path) -> None:
    on_cuda(bundle, device="cuda:1", variant="fp32")(TEXTS[:1])
    [(_, opened)] = cuda.opened
    [(binding, graph)] = opened.runs
    assert graph is None
    pointers = {name: pointer for name, (_, _, pointer) in binding.inputs.items()}
    assert {(kind, index) for kind, index, _ in binding.inputs.values()} == {("cuda", 1)}
    # Side by side, each at a multiple of 256 bytes from the first.
    assert pointers["attention_mask"] - pointers["input_ids"] == 256


def test_warming_up_records(cuda: SimpleNamespace, bundle: Path) -> None:
    pipeline = on_cuda(bundle)
    assert pipeline._session.graphs == ()
    pipeline.warmup().warmup(4, 30)
    assert pipeline._session.graphs == ("1x16", "4x32")
    assert [graph for _, graph in cuda.opened[0][1].runs] == ["-1", "1", "1", "-1", "2", "2"]


def test_a_model_that_cannot_be_recorded_is_opened_without_graphs(
    cuda: SimpleNamespace, bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """ONNX Runtime refuses the whole session where a node of it would not run on CUDA."""
    real = cuda.InferenceSession

    def refusing(model: Any, options: Any, providers: Any, **keywords: Any) -> Any:
        if "enable_cuda_graph" in providers[0][1]:
            raise RuntimeError("This session cannot use the graph capture feature as requested by the user as all ...")
        return real(model, options, providers, **keywords)

    monkeypatch.setattr(cuda, "InferenceSession", refusing)
    with caplog.at_level("WARNING", "torchless"):
        pipeline = on_cuda(bundle)
    assert "runs without CUDA graphs: This session cannot use the graph capture feature" in caplog.text
    assert pipeline.warmup().warmup()._session.graphs == ()
    [(_, opened)] = cuda.opened
    assert {graph for _, graph in opened.runs} == {None}


def test_padding_on_the_right_of_a_short_table(cuda: SimpleNamespace, bundle: Path) -> None:
    """A shape that is filled up ends where the model's position table does."""
    pipeline = on_cuda(bundle)
    assert pipeline._session._run._longest == pipeline.tokenizer_spec.position_limit


def test_closing_gives_the_memory_back_at_once(cuda: SimpleNamespace, bundle: Path) -> None:
    pipeline = on_cuda(bundle).warmup()
    graphs = [weakref.ref(graph) for graph in pipeline._session._run._graphs.values()]
    cuda.opened.clear()
    gc.disable()
    try:
        pipeline.close()
        assert [graph() for graph in graphs] == [None]
    finally:
        gc.enable()


def test_a_pickled_pipeline_keeps_its_limit(cuda: SimpleNamespace, bundle: Path) -> None:
    pipeline = on_cuda(bundle, variant="fp32", gpu_mem_limit=1 << 30)
    pickle.loads(pickle.dumps(pipeline))
    assert [asked["gpu_mem_limit"] for asked, _ in cuda.opened] == ["1073741824"] * 2


def test_a_limit_that_is_none_is_refused_on_any_device(bundle: Path) -> None:
    with pytest.raises(InputError, match="gpu_mem_limit is 4 bytes, wanted at least 1048576, one MiB"):
        torchless.pipeline(model=bundle, device="cpu", gpu_mem_limit=4)


def test_a_model_that_does_not_fit(cuda: SimpleNamespace, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError(
            "[ONNXRuntimeError] : 1 : FAIL : Exception during initialization: bfc_arena.cc:360 void* onnxruntime::"
            "BFCArena::AllocateRawInternal Available memory of 0 is smaller than requested bytes of 1179648"
        )

    monkeypatch.setattr(cuda, "InferenceSession", full)
    said = r"^model\.onnx: cuda:0 has not enough memory for the model: \[ONNX.*; give gpu_mem_limit more"
    with pytest.raises(ProviderError, match=said):
        torchless.pipeline(model=bundle, device="cuda", variant="fp32")


def test_a_graph_that_may_not_be_recorded_is_not(cuda: SimpleNamespace, bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in bundle.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((copy / "torchless.json").read_text())
    for value, opens in ((False, True), ("yes", False)):
        manifest["variants"]["fp16"]["session"] = {"cuda_graphs": value}
        (copy / "torchless.json").write_text(json.dumps(manifest))
        if opens:
            assert isinstance(on_cuda(copy)._session._run, BoundRunner)
        else:
            with pytest.raises(
                BundleError, match=r"variants\.fp16\.session\.cuda_graphs is \"yes\", wanted true or false"
            ):
                torchless.pipeline(model=copy, device="cuda")


def test_batches_are_large_and_tokenizing_runs_ahead(cuda: SimpleNamespace, bundle: Path) -> None:
    pipeline = on_cuda(bundle, profile="throughput")
    assert pipeline.limit is None
    texts = [f"film number {i} , a plot and an actor" for i in range(1100)]
    answers = pipeline(texts)
    assert len(answers) == 1100
    assert pipeline.limit in ("tokenizer", "device")
    # Three windows of at most 512 texts, each in one batch: 8192 tokens hold them.
    [(_, opened)] = cuda.opened
    assert len(opened.runs) == 3
    assert (pipeline._profile.window, pipeline._workers) == (512, 2)


def test_a_large_batch_given_whole_is_run_whole(cuda: SimpleNamespace, bundle: Path) -> None:
    pipeline = on_cuda(bundle, profile="throughput")
    pipeline.forward(pipeline.preprocess(["a film"] * 700))
    assert len(cuda.opened[0][1].runs) == 1
