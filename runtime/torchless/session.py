"""The seam to ONNX Runtime: provider choice, threads, options and the input/output contract.

Nothing else in torchless imports `onnxruntime`, and nothing here knows of text.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import mmap
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchless.binding import BoundRunner
from torchless.bundle import ModelSource
from torchless.cuda_graphs import GraphRunner
from torchless.device_failures import halves_of, is_out_of_memory, lost_device, padded_tokens
from torchless.devices import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    Device,
    check_memory_limit,
    cuda_driver,
    cuda_library_problem,
    cuda_options,
    gpu_package_installed,
    installed_runtimes,
)
from torchless.errors import BundleError, InferenceError, ProviderError, one_line, warn_once
from torchless.forking import watch
from torchless.manifest import GRAPH_INPUTS, OutputSpec
from torchless.profiles import PROFILES, Profile, check_threads, find_profile

logger = logging.getLogger("torchless")

# Since 1.29 ONNX Runtime's wheels for Linux, too, tell their maker of each session (the model's names and hashes among
# it), keep a database of that in the user's home, and hold a thread for it, which a forked process waits for when it
# exits. Read once, when ONNX Runtime is loaded: so it is said before anything here can load it. Whoever wants it may
# say otherwise first.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_DEFAULT_SEVERITY = 2  # warnings
_FOLDER = "session.model_external_initializers_file_folder_path"  # of a graph that is given as bytes
# A GPU's memory is shared with other processes, which give back what they took; trying again costs the time of the
# nodes before the one that fails. A CPU's is the system's: what fails there says nothing of the next time.
_FULL_SECONDS = 60.0

Runner = Callable[[Mapping[str, NDArray[np.int64]]], NDArray[np.float32]]

# y = x + x on one float, opset 13: the smallest graph that shows whether a provider runs a node.
# tests/runtime/test_session_devices.py builds it again with onnx.
_PROBE = (
    b'\x08\x08\x12\x00:5\n\x0e\n\x01x\n\x01x\x12\x01y"\x03Add\x12\x01g'
    b"Z\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


class Session:
    """One open graph. `run` may be called from many threads at once.

    Attributes:
        provider: the execution provider that runs the graph, asked of the session itself.
        inputs: the names of the arrays that the graph takes.
        threads: how many threads a CPU session computes with.
        concurrency: how many runs it takes at once to use them all.
        output_width: the last axis of the output where the graph fixes it, else None.
        graphs: the shapes of CUDA graphs that were recorded so far, "1x16" for one text of up to 16 tokens.
        inherited: whether this process was forked after the session was opened. Its threads stayed with the parent,
            so that running it would wait for them for ever: open another.
    """

    def __init__(
        self,
        source: ModelSource,
        *,
        device: Device,
        inputs: Mapping[str, str],
        output: OutputSpec,
        threads: int | None = None,
        profile: str = "latency",
        disabled_optimizers: tuple[str, ...] = (),
        gpu_mem_limit: int | None = None,
        graphs: bool = False,
        longest: int | None = None,
    ) -> None:
        """Open `source` on `device` ("cpu" or "cuda", already chosen) and check it against its description.

        `inputs` is what the manifest says of the graph's inputs, name to type; empty for a graph that
        nobody described, which may take any of those there are.

        Of CUDA: `gpu_mem_limit` is the most bytes that ONNX Runtime's arena may take there; `graphs` allows CUDA
        graphs of small batches, with which one run follows another; `longest` is how many columns those may have.

        Raises:
            ProviderError: the device does not work here, or has not enough memory.
            BundleError: ONNX Runtime cannot load the graph, or its inputs or output are not those described.
            InputError: `threads`, `profile` or `gpu_mem_limit` is none that exists.
        """
        ort = _onnxruntime()
        self.threads = check_threads(threads)
        shape = find_profile(profile, device.kind)
        self.concurrency = self.threads if shape.shared_by_runs else shape.at_once
        options = _options(ort, 1 if shape.shared_by_runs else self.threads, shape)
        if source.external:
            names, maps = list(source.external), list(source.external.values())
            options.add_external_initializers_from_files_in_memory(names, maps, [len(data) for data in maps])
            # The weights stay in the pages of the mapped file, which processes share, instead of being copied.
            options.add_session_config_entry("session.use_external_initializer_file_buffers_directly", "1")
        if isinstance(source.model, bytes):
            # It would read a file that it names from the working directory; where no folder is, it finds none.
            options.add_session_config_entry(_FOLDER, os.path.join(os.sep, f"torchless-{secrets.token_hex(16)}"))
        limit = check_memory_limit(gpu_mem_limit)
        graphs = graphs and device.kind == "cuda"
        providers: list[Any] = [CPU_PROVIDER]
        if device.kind == "cuda":
            if cause := cuda_problem(device.index):
                raise ProviderError(cause)
            providers.insert(0, (CUDA_PROVIDER, cuda_options(device, gpu_mem_limit=limit, graphs=graphs)))

        def opened() -> Any:
            given = {"disabled_optimizers": set(disabled_optimizers), "enable_fallback": 0}
            with _quietly(ort, device.kind == "cuda"):
                return ort.InferenceSession(source.model, options, providers, **given)

        try:
            try:
                self._session = opened()
            except Exception as error:  # as below
                if not graphs or "graph capture" not in str(error):
                    raise
                logger.warning("%s: %s runs without CUDA graphs: %s", device, source.name, _first_line(error))
                graphs, providers[0] = False, (CUDA_PROVIDER, cuda_options(device, gpu_mem_limit=limit))
                self._session = opened()
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            if is_out_of_memory(error):
                raise ProviderError(
                    f"{source.name}: {device} has not enough memory for the model: {_first_line(error)}; "
                    "give gpu_mem_limit more where it is set, or a smaller variant"
                ) from error
            raise BundleError(f"{source.name}: ONNX Runtime cannot load it: {_first_line(error)}") from error
        # The Python wrapper would keep the serialized model alive beside the loaded one.
        self._session._model_bytes = None
        self.provider: str = self._session.get_providers()[0]
        if device.kind == "cuda" and self.provider != CUDA_PROVIDER:
            raise ProviderError(f"{device}: ONNX Runtime opened the model on {self.provider}; see `torchless doctor`")
        self.output_width = _check_contract(self._session, source.name, inputs, output)
        self.inputs: tuple[str, ...] = tuple(i.name for i in self._session.get_inputs())
        self._device = device
        self._run = self._runner(ort, output, longest, graphs)
        self._lost: str | None = None
        # Padded tokens of the last batch that a GPU's memory did not hold, and until when it is not tried again.
        self._too_many: tuple[int, float] | None = None
        # Last of the attributes, so that the maps outlive the session that reads from them. Most weights were packed
        # into memory of its own: their pages need not count as this process's until they are read again.
        self._external = source.external
        for weights in self._external.values():
            if hasattr(mmap, "MADV_DONTNEED"):
                weights.madvise(mmap.MADV_DONTNEED)
        self.inherited = False
        watch(self)

    @property
    def graphs(self) -> tuple[str, ...]:
        """The shapes of the CUDA graphs that were recorded so far."""
        return self._run.captured if isinstance(self._run, GraphRunner) else ()

    def after_fork(self) -> None:
        """Take note that this process was forked and may neither run nor destroy the session."""
        if not self.inherited:
            self.inherited = True
            # A reference that nobody gives back: the destructor would wait for threads that are not there, and
            # without this the interpreter's end would call it.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))

    def run(self, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Run the graph: each input (batch, sequence) int64; returns the output float32.

        A batch that the device's memory does not hold is run in two halves, and those again; on CUDA so is what is
        as large and comes within a minute.

        Raises:
            InferenceError: ONNX Runtime failed; the message carries its first line.
            ProviderError: the GPU is lost to this process.
        """
        if self._lost or self._too_many:
            self._check_device()
            if self._is_too_many(inputs) and (halves := halves_of(inputs)):
                return np.concatenate([self.run(half) for half in halves])
        try:
            return self._run(inputs)
        except Exception as error:  # as above
            self._lost = self._lost or lost_device(error)
            self._check_device(error)
            shapes = ", ".join(f"{name} {getattr(array, 'shape', type(array))}" for name, array in inputs.items())
            full = is_out_of_memory(error)
            halves = halves_of(inputs) if full else ()
            if not halves:
                what = f"{self._device} has not enough memory for" if full else "ONNX Runtime failed on"
                raise InferenceError(f"{what} {shapes}: {_first_line(error)}") from error
            logger.info("%s has not enough memory for %s: run in halves", self._device, shapes)
            if self._device.kind == "cuda":
                self._too_many = padded_tokens(inputs), time.monotonic() + _FULL_SECONDS
        # Outside of `except`, which would hold on to what the failed run had.
        return np.concatenate([self.run(half) for half in halves])

    def _runner(self, ort: Any, output: OutputSpec, longest: int | None, graphs: bool) -> Runner:
        session, names = self._session, [output.name]
        if self._device.kind == "cpu":
            return lambda inputs: session.run(names, inputs)[0]
        if graphs and self.output_width is not None and "attention_mask" in self.inputs:
            return GraphRunner(ort, session, output, self.output_width, self._device, longest)
        return BoundRunner(ort, session, output.name, self._device)

    def _is_too_many(self, inputs: Mapping[str, NDArray[np.int64]]) -> bool:
        tokens, until = self._too_many or (0, 0.0)
        if time.monotonic() >= until:
            self._too_many = None
            return False
        return padded_tokens(inputs) >= tokens

    def _check_device(self, cause: BaseException | None = None) -> None:
        if self._lost:
            raise ProviderError(
                f"{self._device}: the GPU is lost to this process (CUDA failure {self._lost}); restart it, and look "
                "at `torchless doctor` and the system's log if that does not help"
            ) from cause


def choose_device(device: Device) -> Device:
    """Turn "auto" into "cuda" where CUDA really works here, else "cpu"; others are returned as they are.

    Warns once where a CUDA package is installed but does not work.
    """
    if device.kind != "auto":
        return device
    if CUDA_PROVIDER not in _onnxruntime().get_available_providers():
        logger.info("device auto: the installed ONNX Runtime has no CUDA provider; running on the CPU")
        if gpu_package_installed():
            warn_once(f"running on the CPU: {cuda_problem(0)}")
        return Device("cpu")
    if cause := cuda_problem(0):
        warn_once(f"running on the CPU: {cause}")
        return Device("cpu")
    return Device("cuda")


def cuda_problem(index: int) -> str | None:
    """Say in one line why GPU `index` cannot be used and how to mend it; None: it runs a node."""
    ort = _onnxruntime()
    packages = installed_runtimes()
    if len(packages) > 1:
        names = " and ".join(f"{name} {version}" for name, version in sorted(packages.items()))
        return (
            f"{names} are both installed and overwrite each other's files: "
            f"`pip uninstall -y {' '.join(sorted(packages))}`, then `pip install torchless[gpu]`"
        )
    if CUDA_PROVIDER not in ort.get_available_providers():
        return (
            "the installed onnxruntime is the CPU package: `pip uninstall -y onnxruntime`, "
            "then `pip install torchless[gpu]`"
        )
    driver = cuda_driver()
    if isinstance(driver, str):
        return driver
    built = cuda_build()
    if built and int(driver[1].split(".")[0]) < int(built.split(".")[0]):
        return (
            f"the NVIDIA driver supports CUDA up to {driver[1]}, the installed onnxruntime-gpu is built for {built}: "
            "update the driver"
        )
    if index >= driver[0]:
        return f"cuda:{index}: the driver finds {driver[0]} GPU{'s' * (driver[0] != 1)}, numbered from 0"
    return probe_provider(CUDA_PROVIDER, {"device_id": str(index)})


def probe_provider(provider: str, options: Mapping[str, str] | None = None) -> str | None:
    """Run one node on `provider`, with no other to fall back to; returns None, or why it does not run."""
    ort = _onnxruntime()
    if provider == CUDA_PROVIDER and hasattr(ort, "preload_dlls"):
        # Finds the CUDA and cuDNN libraries that pip installed; what it cannot find, the session's error names.
        with open(os.devnull, "w", encoding="utf-8") as quiet, contextlib.redirect_stdout(quiet):
            ort.preload_dlls()
        folder = Path(getattr(ort, "__file__", "")).parent / "capi"
        if folder.is_dir() and (cause := cuda_library_problem(folder)):
            return cause
    session_options = _options(ort, 1, PROFILES["throughput"])
    if provider != CPU_PROVIDER:
        session_options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        with _quietly(ort, provider == CUDA_PROVIDER):
            session = ort.InferenceSession(
                _PROBE, session_options, [(provider, dict(options or {}))], enable_fallback=0
            )
        if session.get_providers()[0] != provider:
            return f"{provider} cannot be loaded: its libraries are missing or of another CUDA version"
        answer = session.run(None, {"x": np.ones(1, np.float32)})[0]
    except Exception as error:  # whatever a provider raises is the answer to the question asked
        return f"{provider} does not run: {_first_line(error)}"
    return None if answer[0] == 2 else f"{provider} computes 1 + 1 = {answer[0]}"


def available_providers() -> list[str]:
    """Return the execution providers compiled into the installed ONNX Runtime, whether or not they run here."""
    return list(_onnxruntime().get_available_providers())


def cuda_build() -> str | None:
    """Return the version of CUDA that the installed ONNX Runtime is built for, "13.0"; None: for none."""
    version = getattr(_onnxruntime(), "cuda_version", None)
    return version if isinstance(version, str) and version[:1].isdecimal() else None


def runtime_version() -> str:
    """Return ONNX Runtime's version."""
    return str(_onnxruntime().__version__)


@contextlib.contextmanager
def _quietly(ort: Any, cuda: bool) -> Iterator[None]:
    """Keep what ONNX Runtime tells standard error of every CUDA session that it opens, good or bad.

    Errors are raised; and that it finds no plugin beside the provider that it has (1.31) is nothing to tell anyone. The
    logger is the process's own: it is set back to ONNX Runtime's default, since nobody can ask what it was.
    """
    if not cuda or not hasattr(ort, "set_default_logger_severity"):
        yield
        return
    ort.set_default_logger_severity(4)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_DEFAULT_SEVERITY)


def _onnxruntime() -> Any:
    try:
        module = importlib.import_module("onnxruntime")
        module.InferenceSession  # noqa: B018  # two wheels on top of each other leave an empty package behind
    except (ImportError, AttributeError) as error:
        raise ProviderError(
            f"ONNX Runtime cannot be imported ({one_line(str(error), 200)}): `pip install torchless[cpu]`, or `[gpu]`; "
            "`torchless doctor` shows what is installed"
        ) from error
    return module


def _options(ort: Any, threads: int, profile: Profile) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised; ONNX Runtime would print them as well
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry(*profile.spinning)
    # Plans of where the tensors of a run lie, one for each shape ever seen. One text of 16 tokens is 3 % faster with
    # them; batches of varied shapes are not, and hold 32 MB more (int8, DistilBERT's shape, 400 shapes: 260 MB in all
    # against 228). Without the arena such batches are 5 % slower and hold 290 to 320 MB.
    options.enable_mem_pattern = not profile.shared_by_runs
    return options


def _check_contract(session: Any, name: str, inputs: Mapping[str, str], output: OutputSpec) -> int | None:
    """Check names, types and axes of the open graph; returns the width of the output's last axis where fixed."""
    found = {i.name: i for i in session.get_inputs()}
    if set(found) != set(inputs) if inputs else not {"input_ids"} <= set(found) <= set(GRAPH_INPUTS):
        raise BundleError(
            f"{name}: its inputs are {sorted(found)}, wanted {sorted(inputs or GRAPH_INPUTS)}; export it again"
        )
    for key, node in found.items():
        if node.type != "tensor(int64)" or len(node.shape) != 2 or any(isinstance(axis, int) for axis in node.shape):
            raise BundleError(f"{name}: its input {key} is {node.type} {node.shape}, wanted int64 of two free axes")
    outputs = {o.name: o for o in session.get_outputs()}
    if output.name not in outputs:
        raise BundleError(f"{name}: its outputs are {sorted(outputs)}, the bundle says {output.name}; export it again")
    node = outputs[output.name]
    rank = len(output.axes)
    if node.type != "tensor(float)" or (node.shape and len(node.shape) != rank):
        raise BundleError(
            f"{name}: its output {output.name} is {node.type} {node.shape}, wanted float32 of {rank} axes"
        )
    if any(isinstance(axis, int) for axis in node.shape[:-1]):
        raise BundleError(f"{name}: its output {output.name} has the fixed shape {node.shape}; export with free axes")
    return node.shape[-1] if node.shape and isinstance(node.shape[-1], int) else None


def _first_line(error: BaseException) -> str:
    return one_line(str(error).strip().split("\n", 1)[0] or type(error).__name__, 400)
