"""`torchless.cli.doctor`: what exporting needs, by what is installed."""

from __future__ import annotations

import pytest

from torchless.cli import doctor


@pytest.mark.parametrize(
    ("lacking", "says", "not_said"),
    [
        ([], "`torchless export` has what every architecture needs", "not installed"),
        (
            ["torch"],
            "not installed: torch; other architectures need them: pip install 'torchless[cpu,optimum]'",
            "every",
        ),
        (
            ["torch", "transformers", "optimum-onnx"],
            "`torchless export` has what the architectures need whose",
            "every",
        ),
        (["onnx"], "not installed: onnx; `torchless export` needs them: pip install 'torchless[cpu,export]'", "other"),
        (["onnx", "safetensors", "torch"], "not installed: onnx, safetensors; ", "has what"),
    ],
)
def test_what_exporting_needs(monkeypatch: pytest.MonkeyPatch, lacking: list[str], says: str, not_said: str) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in lacking else "1.0")
    shown = "\n".join(map(str, doctor._exporting()))
    assert says in shown
    assert not_said not in shown
    assert "FAULT" not in shown
    assert all(f"{name} 1.0" in shown for name in (*doctor._EXPORT, *doctor._CONVERT) if name not in lacking)
