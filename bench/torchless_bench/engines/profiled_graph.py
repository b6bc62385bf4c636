"""What one variant of a bundle computes, and what takes its time, from ONNX Runtime's own profile of it.

A product of `x` and `w` takes 2 operations for each number of `x` and each column of the result; so does a fused one.
The profile has the shapes as they were run, which no reading of the file gives for free.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnxruntime

DISTRIBUTIONS = ("onnxruntime", "numpy")

_RUNS = 5  # of which the first is not timed

_PRODUCTS = {"MatMul", "FusedMatMul", "Gemm", "FusedGemm", "FusedMatMulActivation"}
_INTEGER_PRODUCTS = {"MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm"}
_PRECISIONS = {"float": ("fp32", 4), "float16": ("fp16", 2)}


def problem(options: dict[str, Any]) -> str | None:
    """Say that the bundle has no such variant, or is none."""
    path = os.path.join(options["model"], "torchless.json")
    if not os.path.exists(path):
        return f"{options['model']} has no torchless.json"
    with open(path, encoding="utf-8") as file:
        variants = json.load(file)["variants"]
    return None if options["variant"] in variants else f"the bundle has no variant {options['variant']}"


class Engine:
    """The graph of `options["variant"]` in the bundle `options["model"]`."""

    def __init__(self, options: dict[str, Any], threads: int) -> None:
        with open(os.path.join(options["model"], "torchless.json"), encoding="utf-8") as file:
            variant = json.load(file)["variants"][options["variant"]]
        self._path = os.path.join(options["model"], next(name for name in variant["files"] if name.endswith(".onnx")))
        self._inputs: list[str] = list(variant["inputs"])
        self._disabled: list[str] = variant.get("session", {}).get("disabled_optimizers", [])
        self._threads = threads

    def arithmetic(self, lengths: list[int], shapes: list[list[int]]) -> Callable[[], Any]:
        """Return the counting of one row of each of `lengths`, and the timing of each (rows, tokens) in `shapes`.

        The call gives {"counts": {length: {precision: operations, ..., "weights": bytes}}, "shares": {"1x16":
        {operator: share of the run's time}}}.
        """
        return lambda: {
            "counts": {str(tokens): counted(self._profile(1, tokens)[-1][1]) for tokens in lengths},
            "shares": {f"{rows}x{tokens}": _shares(self._profile(rows, tokens)[1:]) for rows, tokens in shapes},
        }

    def _profile(self, rows: int, tokens: int) -> list[tuple[float, list[dict[str, Any]]]]:
        """Return (microseconds, events of its nodes) of each run at this shape."""
        with tempfile.TemporaryDirectory() as folder:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = self._threads
            options.enable_profiling = True
            options.profile_file_prefix = os.path.join(folder, "profile")
            session = onnxruntime.InferenceSession(
                self._path, options, providers=["CPUExecutionProvider"], disabled_optimizers=self._disabled
            )
            ids = np.full((rows, tokens), 2, np.int64)
            made = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            for _ in range(_RUNS):
                session.run(None, {name: made[name] for name in self._inputs})
            with open(session.end_profiling(), encoding="utf-8") as file:
                events = json.load(file)
        runs = [event for event in events if event.get("cat") == "Session" and event["name"] == "model_run"]
        nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
        return [(run["dur"], [n for n in nodes if run["ts"] <= n["ts"] < run["ts"] + run["dur"]]) for run in runs]


def counted(nodes: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Return the operations of all products by precision, and the bytes of the weights that they read, as "weights".

    Raises:
        NotImplementedError: an operator computes products in a way that is not known here.
    """
    found: dict[str, int] = defaultdict(int)
    for node in nodes:
        about = node["args"]
        operator = about["op_name"]
        shapes = [next(iter(shape.items())) for shape in about["input_type_shape"]]
        if operator == "MultiHeadAttention":
            # Scores, then their product with the values: queries (batch, q, hidden), keys (batch, k, hidden).
            (kind, (batch, queries, hidden)), (_, (_, keys, _)) = shapes[:2]
            found[_PRECISIONS[kind][0]] += 4 * batch * queries * keys * hidden
        elif operator in _PRODUCTS or operator in _INTEGER_PRODUCTS:
            (kind, given), others = shapes[0], shapes[1:]
            result = next(iter(about["output_type_shape"][0].values()))
            precision, size = ("int8", 1) if operator in _INTEGER_PRODUCTS else _PRECISIONS[kind]
            found[precision] += 2 * math.prod(given) * result[-1]
            # A constant is packed when the session opens, and is then no input any more.
            if all(len(shape) <= 2 for _, shape in others):
                found["weights"] += size * math.prod(given) * result[-1] ** 2 // math.prod(result)
        elif "Attention" in operator or operator in ("Einsum", "Conv", "MatMulNBits"):
            raise NotImplementedError(f"the arithmetic of {operator} is not counted")
    return dict(found)


def _shares(runs: list[tuple[float, list[dict[str, Any]]]]) -> dict[str, float]:
    """Return the share of the time of these runs that each operator takes; what is between them is "between nodes"."""
    whole = sum(duration for duration, _ in runs)
    found: dict[str, float] = defaultdict(float)
    for _, nodes in runs:
        for node in nodes:
            found[node["args"]["op_name"]] += node["dur"] / whole
    found["between nodes"] = max(0.0, 1 - sum(found.values()))
    return dict(sorted(found.items(), key=lambda item: -item[1]))
