"""The seam to ONNX Runtime: what a graph must look like, which device runs it, and what is said when it does not."""

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

from torchless import errors, session
from torchless.bundle import Bundle, ModelSource
from torchless.devices import CPU_PROVIDER, CUDA_PROVIDER, Device
from torchless.errors import BundleError, InferenceError, InputError, ProviderError, TorchlessWarning
from torchless.manifest import FileEntry, Manifest, OutputSpec, TokenizerSpec, Variant
from torchless.profiles import PROFILES
from torchless.session import Session, choose_device, cuda_problem, probe_provider

CPU = Device("cpu")
LOGITS = OutputSpec("logits", "float32", ("batch", "labels"))
IDS = {"input_ids": "int64"}
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


def real(bundle: Path, variant: str = "fp32", **options: Any) -> Session:
    opened_bundle = Bundle.open(bundle)
    described = opened_bundle.manifest.variants[variant]
    with opened_bundle.model(variant) as source:
        return Session(source, device=CPU, inputs=described.inputs, output=described.output, **options)


def batch(*rows: list[int]) -> dict[str, np.ndarray]:
    ids = np.array(rows, np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


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
    answer = real(sample_bundle, variant, threads=1).run(batch([2, 5, 3], [2, 9, 3]))
    assert answer.shape == (2, 2)
    assert answer.dtype == np.float32
    assert np.isfinite(answer).all()


def test_many_threads_may_use_one_session(sample_bundle):
    open_session = real(sample_bundle, threads=1)
    inputs = [batch([2, *range(5, 5 + length), 3]) for length in range(1, 9)]
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
        real(sample_bundle, threads=1).run(inputs)
    assert "\n" not in str(caught.value)


def test_only_the_first_line_of_a_failure_is_told(sample_bundle, monkeypatch):
    def run(inputs: object) -> None:
        raise RuntimeError("bad node\n  at a long stack")

    open_session = real(sample_bundle, threads=1)
    monkeypatch.setattr(open_session, "_run", run)
    with pytest.raises(InferenceError, match=r"failed on input_ids .*: bad node$"):
        open_session.run({"input_ids": IDS_ARRAY})


@pytest.mark.parametrize(("threads", "size"), [(None, 5), (1, 1), (3, 3)])
def test_threads(sample_bundle, monkeypatch, threads, size):
    monkeypatch.setattr(session, "usable_cpus", lambda: 5)
    open_session = real(sample_bundle, threads=threads)
    assert open_session.threads == size
    assert open_session._session.get_session_options().intra_op_num_threads == size


def test_with_throughput_each_run_has_one_thread(sample_bundle):
    open_session = real(sample_bundle, threads=3, profile="throughput")
    assert (open_session.threads, open_session.concurrency) == (3, 3)
    assert open_session._session.get_session_options().intra_op_num_threads == 1
    assert real(sample_bundle, threads=3).concurrency == 1


@pytest.mark.parametrize("threads", [0, -1, 1025, True, 2.0, "4"])
def test_threads_refused(threads):
    with pytest.raises(InputError, match=rf"threads is {threads!r}, wanted a whole number from 1 to 1024"):
        Session(ModelSource(b""), device=CPU, inputs=IDS, output=LOGITS, threads=threads)


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_profiles(sample_bundle, profile):
    assert real(sample_bundle, profile=profile, threads=1).run(batch([2, 3])).shape == (1, 2)


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_an_idle_session_burns_no_cpu(sample_bundle, profile):
    opened = real(sample_bundle, profile=profile, threads=4)
    opened.run(batch([2, 3]))
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


# Devices.


def test_the_probe_is_the_graph_that_its_comment_describes():
    onnx = pytest.importorskip("onnx")
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    node = onnx.helper.make_node("Add", ["x", "x"], ["y"])
    opset = onnx.helper.make_opsetid("", 13)
    built = onnx.helper.make_graph([node], "g", [x], [y])
    built = onnx.helper.make_model(built, opset_imports=[opset], ir_version=8, producer_name="")
    assert built.SerializeToString() == session._PROBE


def test_the_cpu_runs_the_probe():
    assert probe_provider(CPU_PROVIDER) is None
    assert CPU_PROVIDER in session.available_providers()
    assert session.runtime_version()[0].isdecimal()


class FakeSession:
    """A session that opens on `provider` and answers `answer`."""

    def __init__(self, provider: str, answer: Any) -> None:
        self.provider, self.answer = provider, answer

    def get_providers(self) -> list[str]:
        return [self.provider]

    def run(self, outputs: object, inputs: object) -> list[list[float]]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return [[self.answer]]


@pytest.fixture
def fake_ort(monkeypatch):
    """Return a function that puts a fake ONNX Runtime, packages and CUDA driver in place.

    The list it returns has an item for each time that CUDA's libraries were loaded beforehand.
    """
    real_ort = session._onnxruntime()

    def put(
        *,
        cuda: bool = True,
        packages: dict[str, str] | None = None,
        driver: Any = (1, "13.0"),
        opens_on: str = CUDA_PROVIDER,
        answer: Any = 2.0,
    ) -> list[int]:
        preloaded: list[int] = []
        providers = [CUDA_PROVIDER, CPU_PROVIDER] if cuda else [CPU_PROVIDER]
        fake = SimpleNamespace(
            SessionOptions=real_ort.SessionOptions,
            get_available_providers=lambda: providers,
            preload_dlls=lambda: print(preloaded.append(1)),  # noqa: T201
            InferenceSession=lambda *arguments, **options: FakeSession(opens_on, answer),
        )
        installed = {"onnxruntime-gpu": "1.32.0"} if packages is None else packages
        monkeypatch.setattr(session, "_onnxruntime", lambda: fake)
        monkeypatch.setattr(session, "installed_runtimes", lambda: installed)
        monkeypatch.setattr(session, "gpu_package_installed", lambda: "onnxruntime-gpu" in installed)
        monkeypatch.setattr(session, "cuda_driver", lambda: driver)
        monkeypatch.setattr(errors, "_given", set())
        return preloaded

    return put


BOTH = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.0"}
PROBLEMS = [
    pytest.param(
        {"cuda": False, "packages": {"onnxruntime": "1.32.0"}}, "is the CPU package: `pip un", id="CPU package"
    ),
    pytest.param({"packages": BOTH}, "onnxruntime 1.32.0 and onnxruntime-gpu 1.31.0 are both installed", id="both"),
    pytest.param(
        {"cuda": False, "packages": BOTH}, "are both installed and overwrite each other", id="both, CPU on top"
    ),
    pytest.param({"driver": "no NVIDIA driver is installed here"}, "no NVIDIA driver is installed", id="no driver"),
    pytest.param({"opens_on": CPU_PROVIDER}, "its libraries are missing or of another CUDA version", id="no libraries"),
    pytest.param({"answer": RuntimeError("CUDNN\nstack")}, "CUDAExecutionProvider does not run: CUDNN$", id="fails"),
    pytest.param({"answer": 3.0}, "computes 1 \\+ 1 = 3.0", id="wrong"),
]


@pytest.mark.parametrize(("system", "cause"), PROBLEMS)
def test_cuda_that_does_not_work_is_a_provider_error_with_the_cause(fake_ort, system, cause):
    fake_ort(**system)
    with pytest.raises(ProviderError, match=cause):
        Session(ModelSource(b""), device=Device("cuda"), inputs=IDS, output=LOGITS, threads=1)


@pytest.mark.parametrize(("gpus", "found"), [(1, "finds 1 GPU, numbered from 0"), (2, "finds 2 GPUs, numbered from 0")])
def test_a_gpu_number_that_is_too_high(fake_ort, gpus, found):
    fake_ort(driver=(gpus, "13.0"))
    assert cuda_problem(gpus - 1) is None
    with pytest.raises(ProviderError, match=f"^cuda:{gpus}: the driver {found}"):
        Session(ModelSource(b""), device=Device("cuda", gpus), inputs=IDS, output=LOGITS, threads=1)


@pytest.mark.parametrize(("system", "cause"), PROBLEMS[1:])
def test_auto_falls_back_to_the_cpu_and_warns_once(fake_ort, system, cause):
    fake_ort(**system)
    with pytest.warns(TorchlessWarning, match=f"^running on the CPU: .*{cause}"):
        assert choose_device(Device("auto")) == CPU
    assert choose_device(Device("auto")) == CPU  # a second warning would be an error here


def test_a_driver_that_is_too_old(fake_ort):
    fake_ort(driver=(1, "12.8"))
    session._onnxruntime().cuda_version = "13.0"
    with pytest.raises(
        ProviderError, match=r"driver supports CUDA up to 12\.8, the installed .* built for 13\.0: update"
    ):
        Session(ModelSource(b""), device=Device("cuda"), inputs=IDS, output=LOGITS, threads=1)
    fake_ort(driver=(1, "13.0"))
    session._onnxruntime().cuda_version = "13.2"  # of one major version any runs
    assert cuda_problem(0) is None


def test_opening_on_cuda_prints_nothing_and_the_logger_is_as_it_was(fake_ort):
    levels: list[int] = []
    fake_ort()
    session._onnxruntime().set_default_logger_severity = levels.append
    assert cuda_problem(0) is None
    assert levels == [4, 2]
    assert probe_provider(CPU_PROVIDER) is not None  # the fake is of CUDA
    assert levels == [4, 2]


def test_auto_says_nothing_where_only_the_cpu_package_is(fake_ort):
    fake_ort(cuda=False, packages={"onnxruntime": "1.32.0"})
    assert choose_device(Device("auto")) == CPU


def test_auto_takes_cuda_where_it_works(fake_ort, capsys):
    preloaded = fake_ort()
    assert choose_device(Device("auto")) == Device("cuda")
    assert preloaded == [1]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("device", [Device("cpu"), Device("cuda", 3)])
def test_a_device_that_was_named_is_taken(fake_ort, device):
    fake_ort(driver="none")
    assert choose_device(device) == device


def test_a_session_that_opens_elsewhere_is_refused(fake_ort, monkeypatch):
    fake_ort(opens_on=CPU_PROVIDER)
    monkeypatch.setattr(session, "cuda_problem", lambda index: None)
    with pytest.raises(ProviderError, match="cuda:0: ONNX Runtime opened the model on CPUExecutionProvider"):
        Session(ModelSource(b""), device=Device("cuda"), inputs=IDS, output=LOGITS, threads=1)


@pytest.mark.parametrize("module", [None, SimpleNamespace(__version__="1")])
def test_a_missing_or_hollow_onnx_runtime_is_a_provider_error(monkeypatch, module):
    def import_module(name: str) -> Any:
        if module is None:
            raise ImportError(f"No module named {name!r}")
        return module

    monkeypatch.setattr(session.importlib, "import_module", import_module)
    with pytest.raises(ProviderError, match=r"ONNX Runtime cannot be imported .*`pip install torchless\[cpu\]`"):
        session.available_providers()


@pytest.mark.gpu
def test_a_gpu_runs_the_sample_bundle(sample_bundle):
    if cause := cuda_problem(0):
        pytest.skip(cause)
    bundle = Bundle.open(sample_bundle)
    variant = bundle.manifest.variants["fp32"]
    with bundle.model("fp32") as source:
        open_session = Session(source, device=Device("cuda"), inputs=variant.inputs, output=variant.output)
    assert open_session.provider == CUDA_PROVIDER
    wanted = real(sample_bundle, threads=1).run(batch([2, 5, 3]))
    np.testing.assert_allclose(open_session.run(batch([2, 5, 3])), wanted, atol=1e-2)


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
