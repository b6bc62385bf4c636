"""What ONNX Runtime's errors say of the device, in the words of onnxruntime-gpu 1.31.1; and batches that do not fit."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from open_sessions import inputs_of, open_variant
from torchless.device_failures import halves_of, is_out_of_memory, lost_device, padded_tokens
from torchless.devices import Device
from torchless.errors import InferenceError, ProviderError
from torchless.session import Session

ARENA = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running MatMul node. Name:'layer/MatMul' "
    "Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:360 void* "
    "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) "
)
FULL = ARENA + "Failed to allocate memory for requested buffer of size 100663296\n"
LIMIT = ARENA + "Available memory of 0 is smaller than requested bytes of 25165824\n"
CUDA = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Range node. Name:'starts/Range_2' "
    "Status Message: CUDA failure {} ; GPU=0 ; hostname=vm ; file=/onnxruntime_src/onnxruntime/core/providers/cuda/"
    "generator/range_impl.cu ; line=39 ; expr=cudaGetLastError(); "
)


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (RuntimeError(FULL), True),
        (RuntimeError(LIMIT), True),
        (RuntimeError(CUDA.format("2: out of memory")), True),
        (RuntimeError("std::bad_alloc"), True),
        (MemoryError(), True),
        (RuntimeError(CUDA.format("719: unspecified launch failure")), False),
        (
            RuntimeError("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: input_ids"),
            False,
        ),
        (
            ValueError("indices element out of data bounds, idx=900 must be within the inclusive range [-300,299]"),
            False,
        ),
    ],
)
def test_out_of_memory(error: Exception, full: bool) -> None:
    assert is_out_of_memory(error) is full


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        (CUDA.format("700: an illegal memory access was encountered"), "700: an illegal memory access was encountered"),
        (CUDA.format("719: unspecified launch failure"), "719: unspecified launch failure"),
        (CUDA.format("214: uncorrectable ECC error encountered"), "214: uncorrectable ECC error encountered"),
        (CUDA.format("999: unknown error"), "999: unknown error"),
        ("CUDA failure 46: CUDA-capable device(s) is/are busy", "46: CUDA-capable device(s) is/are busy"),
        # It may still be asked for less.
        (CUDA.format("2: out of memory"), None),
        (CUDA.format("1: invalid argument"), None),
        (FULL, None),
        ("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED", None),
    ],
)  # fmt: skip
def test_a_lost_device(text: str, lost: str | None) -> None:
    assert lost_device(RuntimeError(text)) == lost


def batch(rows: int, length: int = 5) -> dict[str, np.ndarray]:
    return inputs_of(*(np.arange(rows * length).reshape(rows, length) % 90 + 5).tolist())


@pytest.mark.parametrize("rows", [2, 3, 8])
def test_halves_are_the_whole(rows: int) -> None:
    whole = batch(rows)
    first, second = halves_of(whole)
    assert padded_tokens(first) + padded_tokens(second) == padded_tokens(whole)
    assert 0 <= len(second["input_ids"]) - len(first["input_ids"]) <= 1
    for name, array in whole.items():
        np.testing.assert_array_equal(np.concatenate([first[name], second[name]]), array)


@pytest.mark.parametrize("inputs", [batch(1), {}])
def test_one_text_has_no_halves(inputs: dict[str, np.ndarray]) -> None:
    assert halves_of(inputs) == ()


class Device5:
    """A session whose device holds so many padded tokens, and what it was asked to run."""

    def __init__(self, real: Any, most: int, error: str = FULL) -> None:
        self.real, self.most, self.error = real, most, error
        self.asked: list[int] = []

    def __call__(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        self.asked.append(len(inputs["input_ids"]))
        if padded_tokens(inputs) > self.most:
            raise RuntimeError(self.error)
        return self.real(inputs)


@pytest.fixture
def limited(sample_bundle: Path) -> Callable[..., tuple[Session, Device5]]:
    """Return a function that opens the sample on the CPU, as if that had a device's memory."""

    def make(most: int, error: str = FULL) -> tuple[Session, Device5]:
        session = open_variant(sample_bundle, threads=1)
        device = Device5(session._run, most, error)
        session._run = device
        return session, device

    return make


@pytest.mark.parametrize("error", [FULL, LIMIT, "std::bad_alloc"])
def test_a_batch_that_does_not_fit_is_run_in_parts(limited: Callable[..., Any], error: str) -> None:
    session, device = limited(20, error)
    session._device = Device("cuda")
    whole = batch(11)
    found = session.run(whole)
    assert device.asked == [11, 5, 2, 3, 3, 3]
    np.testing.assert_allclose(found, device.real(whole), rtol=0, atol=1e-6)


def test_on_the_cpu_the_next_batch_is_tried_as_it_is(limited: Callable[..., Any]) -> None:
    session, device = limited(20)
    assert session.run(batch(8)).shape == (8, 2)
    assert device.asked == [8, 4, 4]
    device.most = 1000
    session.run(batch(16))
    assert device.asked[3:] == [16]


def test_on_cuda_what_did_not_fit_once_is_not_tried_again_for_a_minute(
    limited: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, device = limited(20)
    session._device = Device("cuda")
    session.run(batch(8))
    assert device.asked == [8, 4, 4]
    device.asked.clear()
    found = session.run(batch(16))
    assert device.asked == [4, 4, 4, 4]
    assert found.shape == (16, 2)
    # What is smaller is, and says more of how much fits.
    device.most, device.asked = 10, []
    session.run(batch(4))
    assert device.asked == [4, 2, 2]
    device.most, device.asked = 1000, []
    session.run(batch(4))
    assert device.asked == [2, 2]
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    session.run(batch(16))
    session.run(batch(16))
    assert device.asked == [2, 2, 16, 16]


def test_one_text_that_does_not_fit(limited: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    session, _ = limited(4)
    with (
        caplog.at_level(logging.INFO, "torchless"),
        pytest.raises(
            InferenceError, match=r"^cpu has not enough memory for input_ids \(1, 5\), attention_mask \(1, 5\): \[ONNX"
        ),
    ):
        session.run(batch(2))
    assert caplog.messages == ["cpu has not enough memory for input_ids (2, 5), attention_mask (2, 5): run in halves"]


def test_another_failure_is_not_repeated(limited: Callable[..., Any]) -> None:
    session, device = limited(4, "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : no")
    with pytest.raises(InferenceError, match=r"ONNX Runtime failed on input_ids \(2, 5\)"):
        session.run(batch(2))
    assert device.asked == [2]


def test_a_lost_gpu_is_one_error_and_is_left_alone(limited: Callable[..., Any]) -> None:
    session, device = limited(4, CUDA.format("719: unspecified launch failure"))
    said = r"^cpu: the GPU is lost to this process \(CUDA failure 719: unspecified launch failure\); restart it"
    with pytest.raises(ProviderError, match=said) as caught:
        session.run(batch(2))
    assert isinstance(caught.value.__cause__, RuntimeError)
    device.most = 1000
    with pytest.raises(ProviderError, match=said):
        session.run(batch(1))
    assert device.asked == [2]


def test_a_gpu_that_another_thread_found_lost_stays_so(limited: Callable[..., Any]) -> None:
    session, _ = limited(1000)

    def fail(_inputs: Any) -> Any:
        session._lost = "719: unspecified launch failure"
        raise RuntimeError("bad node")

    session._run = fail
    with pytest.raises(ProviderError, match="the GPU is lost to this process"):
        session.run(batch(1))
