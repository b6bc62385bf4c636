"""The seam to ONNX Runtime: what a graph must look like, how it runs, and what is said when it does not."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from open_sessions import CPU, IDS, LOGITS, inputs_of, open_variant
from torchless import profiles, session
from torchless.bundle import Bundle, ModelSource
from torchless.devices import CPU_PROVIDER
from torchless.errors import BundleError, InferenceError, InputError
from torchless.manifest import FileEntry, Manifest, OutputSpec, TokenizerSpec, Variant
from torchless.profiles import PROFILES
from torchless.session import Session

FREE = ["batch", "sequence"]
ROWS = 300


def graph(
    inputs: dict[str, tuple[str, list[Any]]] | None = None,
    output: tuple[str, str, list[Any] | None] = ("logits", "FLOAT", ["batch", 2]),
    *,
    summed: bool = True,
) -> Any:
    """Return a model that adds up rows of a table, 300 by 2, or lists them where not `summed`."""
    onnx = pytest.importorskip("onnx")
    helper, types = onnx.helper, onnx.TensorProto
    table = np.arange(ROWS * 2, dtype=np.float32).reshape(ROWS, 2)
    name, kind, shape = output
    declared = inputs or {"input_ids": ("INT64", FREE)}
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["ids"], to=types.INT64),
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "axis"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum" if summed else "rows"], [name], to=getattr(types, kind)),
    ]
    built = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info(key, getattr(types, dtype), axes) for key, (dtype, axes) in declared.items()],
        [helper.make_tensor_value_info(name, getattr(types, kind), shape)],
        [onnx.numpy_helper.from_array(table, "table"), onnx.numpy_helper.from_array(np.array([1]), "axis")],
    )
    return helper.make_model(built, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def opened(model: Any, inputs: dict[str, str] | None = None, output: OutputSpec = LOGITS, **options: Any) -> Session:
    source = ModelSource(model if isinstance(model, bytes) else model.SerializeToString(), name="m.onnx")
    return Session(source, device=CPU, inputs=IDS if inputs is None else inputs, output=output, threads=1, **options)


# The contract between a graph and its description.


def test_a_graph_that_fits_runs():
    open_session = opened(graph())
    answer = open_session.run({"input_ids": np.array([[1, 2], [0, 299]])})
    assert answer.dtype == np.float32
    assert answer.tolist() == [[6, 8], [598, 600]]
    assert (open_session.provider, open_session.inputs) == (CPU_PROVIDER, ("input_ids",))
    assert (open_session.output_width, open_session.threads) == (2, 1)


def test_a_graph_of_tokens_runs():
    hidden = OutputSpec("last_hidden_state", "float32", ("batch", "sequence", "hidden"))
    model = graph(output=("last_hidden_state", "FLOAT", ["batch", "sequence", 2]), summed=False)
    assert opened(model, output=hidden).run({"input_ids": np.array([[1, 2]])}).tolist() == [[[2, 3], [4, 5]]]


@pytest.mark.parametrize(
    "inputs", [["input_ids"], ["input_ids", "attention_mask"], ["input_ids", "token_type_ids", "attention_mask"]]
)
def test_a_graph_that_nobody_described_may_take_any_inputs_there_are(inputs):
    model = graph(dict.fromkeys(inputs, ("INT64", FREE)))
    assert opened(model, {}).inputs == tuple(inputs)


@pytest.mark.parametrize(
    ("declared", "described", "complaint"),
    [
        ({"input_ids": ("INT32", FREE)}, IDS, r"input input_ids is tensor\(int32\)"),
        ({"input_ids": ("INT64", ["batch"])}, IDS, "wanted int64 of two free axes"),
        ({"input_ids": ("INT64", [1, "sequence"])}, IDS, "wanted int64 of two free axes"),
        ({"input_ids": ("INT64", ["batch", 128])}, IDS, "wanted int64 of two free axes"),
        ({"input_ids": ("INT64", ["batch", "sequence", "more"])}, IDS, "wanted int64 of two free axes"),
        ({"input_ids": ("INT64", FREE), "attention_mask": ("INT64", FREE)}, IDS, r"wanted \['input_ids'\]"),
        ({"input_ids": ("INT64", FREE)}, IDS | {"attention_mask": "int64"}, r"its inputs are \['input_ids'\], wanted"),
        ({"input_ids": ("INT64", FREE), "pixels": ("INT64", FREE)}, {}, r"its inputs are \['input_ids', 'pixels'\]"),
    ],
)
def test_inputs_that_are_not_those_described(declared, described, complaint):
    model = graph(declared, ("logits", "FLOAT", None))
    with pytest.raises(BundleError, match=f"^m.onnx: .*{complaint}"):
        opened(model, described)


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        (("scores", "FLOAT", ["batch", 2]), r"its outputs are \['scores'\], the bundle says logits"),
        (("logits", "DOUBLE", ["batch", 2]), r"output logits is tensor\(double\) .* wanted float32 of 2 axes"),
        (("logits", "FLOAT16", ["batch", 2]), r"output logits is tensor\(float16\)"),
        (("logits", "FLOAT", [1, 2]), r"has the fixed shape \[1, 2\]"),
    ],
)
def test_an_output_that_is_not_the_one_described(output, complaint):
    with pytest.raises(BundleError, match=f"^m.onnx: .*{complaint}"):
        opened(graph(output=output))


def test_an_output_of_another_rank():
    with pytest.raises(BundleError, match="wanted float32 of 2 axes"):
        opened(graph(output=("logits", "FLOAT", ["batch", "sequence", 2]), summed=False))


@pytest.mark.parametrize("data", [b"", b"not a graph", b"\x08\x08" * 50])
def test_what_is_no_graph(data):
    with pytest.raises(BundleError, match=r"^m\.onnx: ONNX Runtime cannot load it: ") as caught:
        opened(data)
    assert len(str(caught.value)) < 500


# External data.


def with_external_data(folder: Path) -> Bundle:
    onnx = pytest.importorskip("onnx")
    onnx.save_model(graph(), folder / "model.onnx", save_as_external_data=True, location="model.onnx.data")
    names = ("model.onnx", "model.onnx.data")
    files = [(name, (folder / name).read_bytes()) for name in names]
    variant = Variant(names, "fp32", "any", (), "graph", 18, IDS, LOGITS)
    manifest = Manifest(
        task="text-classification",
        architecture="bert",
        labels=("A", "B"),
        problem_type="single_label_classification",
        tokenizer=TokenizerSpec(None, None, "right", 0, 0, ("input_ids",)),
        files=tuple(FileEntry(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in files),
        variants={"fp32": variant},
    )
    return Bundle(folder, manifest)


def test_external_data_is_loaded_and_is_kept(tmp_path):
    bundle = with_external_data(tmp_path)
    assert (tmp_path / "model.onnx.data").stat().st_size >= ROWS * 8
    with bundle.model("fp32") as source:
        open_session = Session(source, device=CPU, inputs=IDS, output=LOGITS, threads=1)
    del source
    gc.collect()
    (tmp_path / "new").write_bytes(b"\xff" * 10_000)
    os.replace(tmp_path / "new", tmp_path / "model.onnx.data")  # as a new export would: too late to matter
    assert open_session.run({"input_ids": np.array([[0, 299]])}).tolist() == [[598, 600]]


def test_a_changed_byte_of_external_data_is_refused(tmp_path):
    bundle = with_external_data(tmp_path)
    data = bytearray((tmp_path / "model.onnx.data").read_bytes())
    data[1000] ^= 1
    (tmp_path / "model.onnx.data").write_bytes(data)
    with pytest.raises(BundleError, match=r"model\.onnx\.data: sha256"), bundle.model("fp32"):
        pass


def test_external_data_that_the_manifest_does_not_list_is_not_loaded(tmp_path):
    bundle = with_external_data(tmp_path)
    variant = dataclasses.replace(bundle.manifest.variants["fp32"], files=("model.onnx",))
    alone = Bundle(tmp_path, dataclasses.replace(bundle.manifest, variants={"fp32": variant}))
    with alone.model("fp32") as source, pytest.raises(BundleError, match=r"^model\.onnx: ONNX Runtime cannot load it"):
        Session(source, device=CPU, inputs=IDS, output=LOGITS, threads=1)


# Running.


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_the_sample_bundle_runs(sample_bundle, variant):
    answer = open_variant(sample_bundle, variant, threads=1).run(inputs_of([2, 5, 3], [2, 9, 3]))
    assert answer.shape == (2, 2)
    assert answer.dtype == np.float32
    assert np.isfinite(answer).all()


def test_many_threads_may_use_one_session(sample_bundle):
    open_session = open_variant(sample_bundle, threads=1)
    inputs = [inputs_of([2, *range(5, 5 + length), 3]) for length in range(1, 9)]
    wanted = [open_session.run(one) for one in inputs]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(open_session.run, inputs * 4))
    for one, other in zip(found, wanted * 4, strict=True):
        np.testing.assert_array_equal(one, other)


IDS_ARRAY = np.ones((1, 3), np.int64)


@pytest.mark.parametrize(
    ("inputs", "shapes"),
    [
        ({}, ""),
        ({"input_ids": IDS_ARRAY}, r"input_ids \(1, 3\)"),
        ({"input_ids": IDS_ARRAY, "attention_mask": IDS_ARRAY, "pixels": IDS_ARRAY}, r"pixels \(1, 3\)"),
        ({"input_ids": IDS_ARRAY.astype(np.int32), "attention_mask": IDS_ARRAY}, "input_ids"),
        ({"input_ids": IDS_ARRAY[0], "attention_mask": IDS_ARRAY}, r"input_ids \(3,\)"),
        ({"input_ids": IDS_ARRAY * 10**6, "attention_mask": IDS_ARRAY}, r"input_ids \(1, 3\)"),
        ({"input_ids": [[1, 2]], "attention_mask": None}, "attention_mask <class 'NoneType'>"),
    ],
)
def test_what_onnx_runtime_refuses_is_an_inference_error(sample_bundle, inputs, shapes):
    with pytest.raises(InferenceError, match=f"^ONNX Runtime failed on .*{shapes}") as caught:
        open_variant(sample_bundle, threads=1).run(inputs)
    assert "\n" not in str(caught.value)


def test_only_the_first_line_of_a_failure_is_told(sample_bundle, monkeypatch):
    def run(inputs: object) -> None:
        raise RuntimeError("bad node\n  at a long stack")

    open_session = open_variant(sample_bundle, threads=1)
    monkeypatch.setattr(open_session, "_run", run)
    with pytest.raises(InferenceError, match=r"failed on input_ids .*: bad node$"):
        open_session.run({"input_ids": IDS_ARRAY})


@pytest.mark.parametrize(("threads", "size"), [(None, 5), (1, 1), (3, 3)])
def test_threads(sample_bundle, monkeypatch, threads, size):
    monkeypatch.setattr(profiles, "usable_cpus", lambda: 5)
    open_session = open_variant(sample_bundle, threads=threads)
    assert open_session.threads == size
    assert open_session._session.get_session_options().intra_op_num_threads == size


def test_with_throughput_each_run_has_one_thread(sample_bundle):
    open_session = open_variant(sample_bundle, threads=3, profile="throughput")
    assert (open_session.threads, open_session.concurrency) == (3, 3)
    assert open_session._session.get_session_options().intra_op_num_threads == 1
    assert open_variant(sample_bundle, threads=3).concurrency == 1


@pytest.mark.parametrize("threads", [0, -1, 1025, True, 2.0, "4"])
def test_threads_refused(threads):
    with pytest.raises(InputError, match=rf"threads is {threads!r}, wanted a whole number from 1 to 1024"):
        Session(ModelSource(b""), device=CPU, inputs=IDS, output=LOGITS, threads=threads)


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_profiles(sample_bundle, profile):
    assert open_variant(sample_bundle, profile=profile, threads=1).run(inputs_of([2, 3])).shape == (1, 2)


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_an_idle_session_burns_no_cpu(sample_bundle, profile):
    opened = open_variant(sample_bundle, profile=profile, threads=4)
    opened.run(inputs_of([2, 3]))
    before = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - before < 0.03  # ONNX Runtime's default: 0.05 and more


def test_an_unknown_profile_is_refused():
    with pytest.raises(InputError, match="profile is 'fast', wanted one of latency, throughput"):
        Session(ModelSource(b""), device=CPU, inputs=IDS, output=LOGITS, threads=1, profile="fast")


def test_optimizers_that_must_stay_off_are_turned_off(monkeypatch):
    given: dict[str, Any] = {}

    def inference_session(*arguments: Any, **options: Any) -> None:
        given.update(options)
        raise RuntimeError("far enough\nsecond line")

    real_ort = session._onnxruntime()
    fake = SimpleNamespace(SessionOptions=real_ort.SessionOptions, InferenceSession=inference_session)
    monkeypatch.setattr(session, "_onnxruntime", lambda: fake)
    with pytest.raises(BundleError, match=r"cannot load it: far enough$"):
        opened(b"", disabled_optimizers=("SkipLayerNormFusion",))
    assert given == {"disabled_optimizers": {"SkipLayerNormFusion"}, "enable_fallback": 0}


def test_nothing_is_told_to_anyone(sample_bundle: Path, tmp_path: Path) -> None:
    """ONNX Runtime's telemetry keeps a database under the user's home, and a thread."""
    code = (
        "import sys, torchless; torchless.pipeline(model=sys.argv[1], device='cpu', threads=1)('dull'); "
        "import os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "CI", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(sample_bundle)],
        env={**environment, "HOME": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == "1\n", done.stderr
    assert list(tmp_path.rglob("*")) == []
