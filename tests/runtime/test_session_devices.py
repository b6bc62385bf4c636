"""Which device runs a session, what is said where CUDA does not work, and what is done then."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from open_sessions import CPU, IDS, LOGITS, inputs_of, open_variant
from torchless import errors, session
from torchless.bundle import Bundle, ModelSource
from torchless.devices import CPU_PROVIDER, CUDA_PROVIDER, Device
from torchless.errors import ProviderError, TorchlessWarning
from torchless.session import Session, choose_device, cuda_problem, probe_provider


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
    wanted = open_variant(sample_bundle, threads=1).run(inputs_of([2, 5, 3]))
    np.testing.assert_allclose(open_session.run(inputs_of([2, 5, 3])), wanted, atol=1e-2)
