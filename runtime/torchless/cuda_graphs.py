"""CUDA graphs: the kernels of a small batch, recorded once for each of a few shapes and replayed in one launch.

A small batch on a GPU is mostly the launching of some fifty kernels one by one. A recorded graph has fixed shapes and
fixed memory, so that batches are filled up to the next of a small set of shapes (`bucket`). ONNX Runtime allows runs of
a session that may record from one thread alone, whether or not they replay (onnxruntime.ai, "CUDA Execution Provider",
"Using CUDA Graphs"): it keeps the graphs with the thread that recorded them, and for each thread that ever ran one a
cuBLAS and a cuDNN handle, with their memory, as long as the session lives (`PerThreadContext` in
cuda_execution_provider.cc). So every run is made on one thread, whoever asks for it.
"""

from __future__ import annotations

import logging
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchless.binding import BoundRunner, Inputs, Slot, checked_arrays
from torchless.devices import Device
from torchless.errors import one_line
from torchless.manifest import OutputSpec
from torchless.nvidia import free_memory

__all__ = ["LENGTHS", "MOST_GRAPHS", "MOST_TOKENS", "ROWS", "GraphRunner", "bucket"]

logger = logging.getLogger("torchless")

ROWS = (1, 2, 4, 8, 16, 32)
LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
# With more padded tokens than this the kernels take longer than their launches. Not measured yet.
MOST_TOKENS = 1024
# Each keeps its own inputs and output; what is in between is shared. More shapes than this run as they come.
MOST_GRAPHS = 16
# A shape that comes once is not worth a recording, which runs it twice.
_RUNS_BEFORE = 1
# ONNX Runtime's `gpu_graph_id` of a run that neither records nor replays.
_NO_GRAPH = "-1"


def bucket(rows: int, length: int, longest: int | None = None) -> tuple[int, int] | None:
    """Return the shape that a batch of `rows` by `length` is filled up to; None: none, it runs as it is.

    `longest` is how many columns the model's position table has; None: no end.
    """
    lengths = [limit for limit in LENGTHS if longest is None or limit <= longest]
    if longest is not None and longest <= LENGTHS[-1]:
        lengths.append(longest)
    shape = (
        next((limit for limit in ROWS if limit >= rows), 0),
        next((limit for limit in lengths if limit >= length), 0),
    )
    return shape if rows and 0 < shape[0] * shape[1] <= MOST_TOKENS else None


class GraphRunner:
    """Runs a session that may record CUDA graphs: from the second batch of a shape on by replaying one.

    Attributes:
        captured: the shapes that are recorded, "1x16" for one text of up to 16 tokens, in the order of recording.
    """

    def __init__(
        self, ort: Any, session: Any, output: OutputSpec, width: int, device: Device, longest: int | None
    ) -> None:
        """Prepare runs of `session`, opened with `enable_cuda_graph`.

        Args:
            ort: ONNX Runtime.
            session: its session.
            output: what the manifest says of the result.
            width: of its last axis.
            device: where.
            longest: how many columns the model's position table has; None: no end.
        """
        self._ort, self._session, self._device = ort, session, device
        self._output, self._width, self._longest = output, width, longest
        self._names = tuple(node.name for node in session.get_inputs())
        self._plain = BoundRunner(ort, session, output.name, device, _run_options(ort, _NO_GRAPH))
        self._thread = _OwnThread()
        self._runs: dict[tuple[int, int], int] = {}
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._records = True

    @property
    def captured(self) -> tuple[str, ...]:
        """The shapes that are recorded."""
        return tuple(f"{rows}x{length}" for rows, length in tuple(self._graphs))

    def __call__(self, inputs: Inputs) -> NDArray[np.float32]:
        """Run on inputs (batch, sequence) int64; returns the output float32.

        Raises:
            ValueError: not the session's inputs.
            Exception: ONNX Runtime's own.
        """
        arrays = dict(zip(self._names, checked_arrays(self._names, inputs), strict=True))
        rows, length = arrays["input_ids"].shape
        shape = bucket(rows, length, self._longest)

        def answer() -> NDArray[np.float32]:
            graph = self._graph(shape) if shape else None
            if graph is None:
                return self._plain(inputs)
            result = graph.run(arrays)
            # A copy, without the padding: the next replay may write over what `result` shows.
            return np.array(result[:rows, :length] if "sequence" in self._output.axes else result[:rows])

        return self._thread.run(answer)

    def _graph(self, shape: tuple[int, int]) -> _Graph | None:
        """Return the graph of a shape, recorded where that is worth it; None: run as it is."""
        if shape in self._graphs or not self._records or len(self._graphs) >= MOST_GRAPHS:
            return self._graphs.get(shape)
        runs = self._runs[shape] = self._runs.get(shape, 0) + 1
        if runs <= _RUNS_BEFORE:
            return None
        before = free_memory(self._device.index)
        try:
            graph = self._record(shape)
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            # What cannot be recorded still runs.
            self._records = False
            logger.warning(
                "%s: no CUDA graphs, %dx%d cannot be recorded: %s", self._device, *shape, one_line(str(error))
            )
            return None
        self._graphs[shape] = graph
        after = free_memory(self._device.index)
        taken = "" if before is None or after is None else f", {before - after} bytes of it just now; {after} are free"
        logger.info("%s: CUDA graphs of %s keep device memory%s", self._device, ", ".join(self.captured), taken)
        return graph

    def _record(self, shape: tuple[int, int]) -> _Graph:
        sizes = {"batch": shape[0], "sequence": shape[1]}
        result = self._ort.OrtValue.ortvalue_from_shape_and_type(
            [sizes.get(axis, self._width) for axis in self._output.axes],
            np.float32,
            self._device.kind,
            self._device.index,
        )
        slot = Slot(self._ort, self._session, self._device, Slot.size(len(self._names), shape))
        slot.binding.bind_ortvalue_output(self._output.name, result)
        session, options = self._session, _run_options(self._ort, str(len(self._graphs) + 1))
        graph = _Graph(slot, self._names, shape, result, lambda: session.run_with_iobinding(slot.binding, options))
        graph.run({name: np.ones((1, 1), np.int64) for name in self._names})
        return graph


Task = tuple[Future[NDArray[np.float32]], Callable[[], NDArray[np.float32]]]


class _OwnThread:
    """A thread that does one thing after another, and ends when nobody has this any more."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        threading.Thread(target=_work, args=(self._tasks,), name="torchless-cuda-graphs", daemon=True).start()
        # Not at the interpreter's end: what is called there would wait for a thread that has gone before it.
        weakref.finalize(self, self._tasks.put, None).atexit = False

    def run(self, function: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return what `function` gives, or raise what it raises.

        Ctrl-C is raised when `function` is over, as where it runs on the caller's thread: the session that it runs, and
        the weights that this reads, may be given up by then. A second one does not wait.
        """
        future: Future[NDArray[np.float32]] = Future()
        self._tasks.put((future, function))
        try:
            return future.result()
        finally:
            if not future.done():
                wait((future,))
            del future  # which holds an error, and the error this frame


def _work(tasks: queue.SimpleQueue[Task | None]) -> None:
    while (task := tasks.get()) is not None:
        future, function = task
        try:
            future.set_result(function())
        except BaseException as error:  # raised where the result is asked for
            future.set_exception(error)
        del task, future, function  # what waits for more keeps nothing of the last


class _Graph:
    """One shape's memory, and the run that records a graph of it at first and replays that from then on."""

    def __init__(
        self, slot: Slot, names: tuple[str, ...], shape: tuple[int, int], result: Any, run: Callable[[], None]
    ) -> None:
        self._slot, self._names, self._shape, self._result, self._run = slot, names, shape, result, run
        self._views = slot.views(names, shape)

    def run(self, arrays: Inputs) -> NDArray[np.float32]:
        """Run on arrays of at most this shape; returns the output of the whole shape."""
        for name, view in self._views.items():
            array = arrays[name]
            view.fill(0)
            view[: array.shape[0], : array.shape[1]] = array
        # A text that is not there has one token: attention to none is not a number.
        self._views["attention_mask"][len(arrays["attention_mask"]) :, 0] = 1
        self._slot.send(self._names, self._shape)
        self._run()
        result: NDArray[np.float32] = self._result.numpy()
        return result


def _run_options(ort: Any, graph: str) -> Any:
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph)
    return options
