"""What may vary in a graph without varying its answers: the choices that tuning times."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from torchless.errors import InputError

__all__ = ["TARGETS", "Form", "Target", "candidates", "default_form", "for_batch_invariance", "for_left_padding"]

Target = Literal["cpu", "cuda"]
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True, slots=True)
class Form:
    """The choices open to a builder; every combination gives the same answers to rounding.

    Attributes:
        qkv: queries, keys and values as three products, or as one product that is split.
        attention: "matmul": MatMul, Softmax, MatMul of ONNX; "strided": the same with hidden states of (sequence,
            batch, hidden), whose heads `com.microsoft.FusedMatMul` reads where they lie, without a copy (with rotary
            positions as "matmul"); "multi-head": one `com.microsoft.MultiHeadAttention`; "lengths": the same, told
            how many tokens each text has instead of a bias for every pair of tokens, which fused kernels for CUDA
            need; "packed": the whole encoder on tokens alone, without padding (`com.microsoft.RemovePadding`,
            `PackedMultiHeadAttention`), which CUDA alone has. The last two are for masks whose ones come first; where
            scores have another bias than the mask's (a window, distances) or padding is on the left they are
            "multi-head". Disentangled attention, whose scores are no product of queries and keys alone, is "matmul"
            in every form.
        gelu: the exact gelu as "gelu" (ONNX, opset 20), "contrib" (`com.microsoft.Gelu`), "bias" (`BiasGelu`, which
            adds the bias too), or "erf" (spelt out).
        norm: "layer": Add, then LayerNormalization; "skip": one `com.microsoft.SkipLayerNormalization`.
        last_layer: "read": of the last layer only what the head reads; "read-twice": the same, its attention in two
            equal rows where that is "matmul" or "strided", since ONNX Runtime's kernel for a single row on the CPU
            adds in an order that goes by the padding (1.32, MLAS, where a text's tokens are 3 more than a multiple of
            4); "whole": all of it.
    """

    qkv: Literal["three", "one"] = "three"
    attention: Literal["matmul", "strided", "multi-head", "lengths", "packed"] = "strided"
    gelu: Literal["gelu", "contrib", "bias", "erf"] = "gelu"
    norm: Literal["layer", "skip"] = "layer"
    last_layer: Literal["read", "read-twice", "whole"] = "read"


# CPU: time of one thread, DistilBERT's shape in int8, ONNX Runtime 1.32, AVX512-VNNI, for 1x16, 32x32 and 1x128:
# strided 3.2, 110 and 15.4 ms; with one product for queries, keys and values 3.2, 117 and 15.5; multi-head 3.5, 117
# and 15.9; the exporter's graph 3.9, 147 and 20.3. With two threads multi-head has fewer joins to wait for at 1x16.
# CUDA: not measured yet. By ONNX Runtime's sources (1.31, multihead_attention.cc): in float16 "lengths" runs in
# CUTLASS's memory-efficient attention on every GPU; "multi-head" does where the texts' length is a multiple of 8, and
# reads a bias as large as the scores.
_DEFAULTS: dict[Target, Form] = {
    "cpu": Form(),
    "cuda": Form(qkv="one", attention="lengths", gelu="bias", norm="skip"),
}
_CANDIDATES: dict[Target, tuple[Form, ...]] = {
    "cpu": (Form(), Form(qkv="one"), Form(qkv="one", attention="multi-head"), Form(attention="matmul")),
    "cuda": (
        _DEFAULTS["cuda"],
        Form(attention="lengths", gelu="bias", norm="skip"),
        Form(qkv="one", attention="packed", gelu="bias", norm="skip"),
        Form(qkv="one", attention="multi-head", gelu="bias", norm="skip"),
    ),
}


def for_left_padding(form: Form) -> Form:
    """Return the form to write instead where padding is on the left, and masks do not begin with ones."""
    return replace(form, attention="multi-head") if form.attention in ("lengths", "packed") else form


def for_batch_invariance(form: Form) -> Form:
    """Return the form to write instead where a text's answer must not change with the padding beside it."""
    attention = form.attention if form.attention in ("matmul", "strided") else "strided"
    return replace(form, attention=attention, last_layer="whole" if form.last_layer == "whole" else "read-twice")


def default_form(target: Target) -> Form:
    """Return the form that won where it was measured.

    Raises:
        InputError: an unknown target.
    """
    return _DEFAULTS[_known(target)]


def candidates(target: Target) -> tuple[Form, ...]:
    """Return the few forms worth timing on a machine, the default first.

    Raises:
        InputError: an unknown target.
    """
    return _CANDIDATES[_known(target)]


def _known(target: Target) -> Target:
    if target not in TARGETS:
        raise InputError(f"target is {target!r}, wanted one of {', '.join(TARGETS)}")
    return target
