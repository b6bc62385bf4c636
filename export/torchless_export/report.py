"""What an export tells: one frozen record, printed as a table or written as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torchless_export.parity import Parity
from torchless_export.texts import PROVING_TEXTS


@dataclass(frozen=True, slots=True)
class VariantReport:
    """One variant.

    Attributes:
        size: bytes of its files.
        parity: the gate's verdict.
        quantization: what was done to make it, for int8.
        tuning: which forms were timed, and the one that was kept; None: none were.
    """

    size: int
    parity: Parity
    quantization: Mapping[str, Any] | None = None
    tuning: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ExportReport:
    """Everything an export measured; `print` shows it.

    Attributes:
        checkpoint: its name.
        bundle: where the bundle is; None: it was refused and nothing was written.
        task, architecture, converter: as in the manifest.
        variants: by name.
        seconds: of each step.
    """

    checkpoint: str
    bundle: Path | None
    task: str
    architecture: str
    converter: str
    variants: Mapping[str, VariantReport]
    seconds: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """Whether every variant kept its tolerance."""
        return all(variant.parity.passed for variant in self.variants.values())

    def to_json(self) -> str:
        """Return the report as indented JSON."""
        variants = {
            name: {
                "size": variant.size,
                "parity": variant.parity.to_manifest() | {"failures": variant.parity.failures},
                "quantization": variant.quantization,
                "tuning": variant.tuning,
            }
            for name, variant in self.variants.items()
        }
        document = asdict(replace(self, variants={})) | {
            "bundle": str(self.bundle) if self.bundle else None,
            "variants": variants,
            "passed": self.passed,
        }
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"

    def __str__(self) -> str:
        some = next(iter(self.variants.values())).parity
        head = ("variant", "MB", "ids", *map(_heading, some.differences), "agreement", "at least", "verdict")
        rows = [head]
        for name, variant in self.variants.items():
            parity = variant.parity
            rows.append(
                (
                    name,
                    f"{variant.size / 1e6:.1f}",
                    "equal" if parity.ids_equal else "DIFFER",
                    *(f"{value:.2g}" for value in parity.differences.values()),
                    f"{parity.agreement:.4f}",
                    f"{parity.agreement_low95:.4f}",
                    "passed" if parity.passed else "FAILED",
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        padded = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
        lines = ["  ".join([row[0].ljust(widths[0]), *cells[1:]]) for row, cells in zip(rows, padded, strict=True)]
        lines.append(f"against {some.reference} on {some.texts} texts ({some.source})")
        lines.append("at least: lower bound of the agreement, 95 % confidence")
        if not some.proven:
            lines.append(
                f"unproven: {some.texts} texts judged, {PROVING_TEXTS} are needed; pass --calibration FILE with more"
            )
        if "fp16" in self.variants and self.variants["fp16"].parity.device != "cuda":
            lines.append("fp16: judged by an emulation of its arithmetic on the CPU, not yet run on a GPU")
        for name, variant in self.variants.items():
            lines += [f"{name}: {failure}" for failure in variant.parity.failures]
        return "\n".join(lines)


def _heading(name: str) -> str:
    """Return the column's heading for a name of `Parity.differences`: "max |logit|", "mean cosine distance"."""
    kind, _, what = name.partition("_")
    short = {"logit": "|logit|", "probability": "|prob|", "hidden": "|hidden|", "cosine_distance": "1 - cosine"}
    return f"{kind} {short[what]}"
