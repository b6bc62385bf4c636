"""What `device=` may be, which packages are there, and what the CUDA driver says; all faked."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchless import devices
from torchless.devices import Device, parse_device
from torchless.errors import InputError, InputTypeError

TorchDevice = type("device", (), {"__module__": "torch", "__str__": lambda self: self.name})


def torch_device(name: str) -> object:
    device = TorchDevice()
    device.name = name
    return device


@pytest.mark.parametrize(
    ("given_device", "device"),
    [
        (None, Device("auto")),
        ("auto", Device("auto")),
        ("cpu", Device("cpu")),
        ("CPU", Device("cpu")),
        (-1, Device("cpu")),
        (0, Device("cuda", 0)),
        (3, Device("cuda", 3)),
        ("cuda", Device("cuda", 0)),
        ("cuda:12", Device("cuda", 12)),
        (torch_device("cuda:1"), Device("cuda", 1)),
        (torch_device("cpu"), Device("cpu")),
    ],
)
def test_parse_device(given_device, device):
    assert parse_device(given_device) == device


def test_parse_device_takes_torchs_own():
    torch = pytest.importorskip("torch")
    assert parse_device(torch.device("cuda", 1)) == Device("cuda", 1)


@pytest.mark.parametrize(
    "wrong", ["", "gpu", "cpu:0", "auto:1", "cuda:", "cuda:-1", "cuda:1234", " cpu", "cpu\n", -2, torch_device("mps")]
)
def test_a_device_that_is_none_is_refused(wrong):
    with pytest.raises(InputError, match="device is"):
        parse_device(wrong)


@pytest.mark.parametrize("wrong", [True, 1.0, b"cpu", ["cpu"], object()])
def test_a_device_of_another_type_is_refused(wrong):
    with pytest.raises(InputTypeError, match="wanted 'auto', 'cpu', 'cuda' or 'cuda:N'"):
        parse_device(wrong)


@given(st.builds(Device, st.just("cuda"), st.integers(0, 999)) | st.sampled_from([Device("auto"), Device("cpu")]))
def test_a_device_reads_what_it_prints(device):
    assert parse_device(str(device)) == device


@given(st.text() | st.integers())
def test_any_string_or_number_is_a_device_or_an_input_error(value):
    with contextlib.suppress(InputError):
        assert parse_device(value).kind in ("auto", "cpu", "cuda")


def test_cuda_options():
    plain = {"device_id": "1", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    assert devices.cuda_options(Device("cuda", 1)) == plain
    assert devices.cuda_options(Device("cuda", 1), gpu_mem_limit=1 << 30, graphs=True) == plain | {
        "gpu_mem_limit": "1073741824", "arena_extend_strategy": "kSameAsRequested", "enable_cuda_graph": "1",
    }  # fmt: skip


@pytest.mark.parametrize("limit", [None, 1 << 20, 80 << 30])
def test_a_memory_limit(limit):
    assert devices.check_memory_limit(limit) == limit


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (4, InputError, "gpu_mem_limit is 4 bytes, wanted at least 1048576, one MiB"),
        (-1, InputError, "gpu_mem_limit is -1 bytes"),
        (1 << 63, InputError, "gpu_mem_limit is"),
        (2.5e9, InputTypeError, "gpu_mem_limit is 2500000000.0, wanted a whole number of bytes"),
        ("4GB", InputTypeError, "gpu_mem_limit is '4GB'"),
        (True, InputTypeError, "gpu_mem_limit is True"),
    ],
)
def test_a_memory_limit_that_is_none_is_refused(wrong, error, says):
    with pytest.raises(error, match=f"^{says}"):
        devices.check_memory_limit(wrong)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that installs distributions where nothing else is; None leaves out the metadata."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])

    def install(**versions: str | None) -> None:
        for name, version in versions.items():
            folder = tmp_path / f"{name}-{version or '0'}.dist-info"
            folder.mkdir()
            if version:
                text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
                (folder / "METADATA").write_text(text, encoding="ascii")

    return install


def test_installed_runtimes(install):
    install(onnxruntime="1.32.0", onnxruntime_gpu="1.31.0", onnxruntime_extensions="0.14", onnx="1.23", broken=None)
    assert devices.installed_runtimes() == {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.0"}
    assert devices.gpu_package_installed()


def test_no_runtime_installed(install):
    install(onnxruntime="1.32.0", numpy="2.4.6")
    assert devices.installed_runtimes() == {"onnxruntime": "1.32.0"}
    assert not devices.gpu_package_installed()


def driver(status: int = 0, gpus: int = 0, version: int = 13020) -> SimpleNamespace:
    def put(value):
        def function(pointer):
            pointer._obj.value = value
            return 0

        return function

    return SimpleNamespace(cuInit=lambda flags: status, cuDeviceGetCount=put(gpus), cuDriverGetVersion=put(version))


@pytest.mark.parametrize(
    ("library", "answer"),
    [
        (driver(gpus=2), (2, "13.2")),
        (driver(gpus=1, version=12080), (1, "12.8")),
        (driver(gpus=0), "the NVIDIA driver finds no GPU"),
        (driver(status=100), "the NVIDIA driver does not start: the driver finds no GPU"),
        (driver(status=803), "the NVIDIA driver does not start: the driver does not fit this GPU or kernel"),
        (driver(status=999), "the NVIDIA driver does not start: cuInit gives 999"),
    ],
)
def test_cuda_driver(monkeypatch, library, answer):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    assert devices.cuda_driver() == answer


@pytest.mark.parametrize(("platform", "name"), [("linux", "libcuda.so.1"), ("win32", "nvcuda.dll")])
def test_no_cuda_driver(monkeypatch, platform, name):
    def load(asked):
        assert asked == name
        raise OSError("not found")

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", load)
    assert devices.cuda_driver() == (f"the NVIDIA driver's {name} cannot be loaded: no NVIDIA driver is installed here")


SHARED, PROVIDER = "libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"


@pytest.fixture
def provider(tmp_path, monkeypatch):
    """Return a function that says what is wrong with a provider whose libraries load, or fail to, in these words."""
    monkeypatch.setattr(sys, "platform", "linux")

    def problem(files: tuple[str, ...] = (SHARED, PROVIDER), **errors: str) -> str | None:
        for name in files:
            (tmp_path / name).touch()

        def load(path, mode):
            name = path.rsplit("_", 1)[1].removesuffix(".so")
            assert (mode == ctypes.RTLD_GLOBAL) is (name == "shared")
            if name in errors:
                raise OSError(errors[name])

        monkeypatch.setattr(ctypes, "CDLL", load)
        return devices.cuda_library_problem(tmp_path)

    return problem


def test_a_provider_that_loads(provider):
    assert provider() is None


def test_a_library_that_the_provider_lacks(provider):
    said = provider(cuda="libcublasLt.so.13: cannot open shared object file: No such file or directory")
    assert said.startswith(
        f"libcublasLt.so.13, which {PROVIDER} needs, is not found: `pip install torchless[gpu]` brings"
    )


def test_a_provider_that_does_not_load_for_another_reason(provider):
    assert provider(cuda="undefined symbol: cublasX") == f"{PROVIDER} cannot be loaded: undefined symbol: cublasX"


def test_a_provider_that_is_not_there(provider, tmp_path):
    assert provider(files=(SHARED,)) == (
        f"{PROVIDER} is missing in {tmp_path}: `pip install --force-reinstall onnxruntime-gpu`"
    )


def test_where_nobody_knows_the_loader(provider, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert provider(files=()) is None
