"""What an export tells: one frozen record, printed as a table or written as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torchless_export import charts
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
        lines = _table(rows)
        lines.append(f"against {some.reference} on {some.texts} texts ({some.source})")
        lines.append("at least: lower bound of the agreement, 95 % confidence")
        if not some.proven:
            lines.append(
                f"unproven: {some.texts} texts judged, {PROVING_TEXTS} are needed; pass --calibration FILE with more"
            )
        if "fp16" in self.variants and self.variants["fp16"].parity.device != "cuda":
            lines.append("fp16: judged by an emulation of its arithmetic on the CPU, not yet run on a GPU")
        for name, variant in self.variants.items():
            lines += _accuracy(name, variant.parity)
        lines += self._int8()
        for name, variant in self.variants.items():
            lines += [f"{name}: {failure}" for failure in variant.parity.failures]
        return "\n".join(lines)

    def details(self) -> str:
        """Return what `str` does, and a table of what each group of products does in int8, where that was measured."""
        rows = self._search().get("sensitivity", ())
        if not rows:
            return str(self)
        head = ("int8 alone in", "of the work", "leads moved by", "agreement", "expected")
        cells = [
            (
                row["group"], f"{row['share']:.1%}", f"{row['moved']:.3g}", f"{row['agreement']:.4f}",
                f"{row['expected_agreement']:.4f}",
            )
            for row in rows
        ]  # fmt: skip
        return "\n".join([str(self), "", *_table([head, *cells])])

    def charts(self) -> dict[str, str]:
        """Return SVG charts by file name: what was tried, and what each group of products does, where measured."""
        made, search = self.variants["int8"].quantization if "int8" in self.variants else None, self._search()
        drawn = {}
        if made and any("speed" in trial for trial in search.get("tried", ())):
            drawn["frontier.svg"] = charts.frontier(search["tried"], made["recipe"]["name"], search["min_agreement"])
        if search.get("sensitivity"):
            drawn["sensitivity.svg"] = charts.sensitivity(search["sensitivity"])
        return drawn

    def _search(self) -> Mapping[str, Any]:
        made = self.variants["int8"].quantization if "int8" in self.variants else None
        search: Mapping[str, Any] = (made or {}).get("search") or {}
        return search

    def _int8(self) -> list[str]:
        """Return the lines on how int8 was made, where recipes were tried."""
        search = self._search()
        if not search:
            return []
        made = self.variants["int8"].quantization or {}
        name, drift = made["recipe"]["name"], self.variants["int8"].parity.batch_drift
        lines = [f"int8: {name}, chosen on {search['texts']} texts that do not judge"]
        if not search["accepted"]:
            lines.append(f"int8: no recipe is expected to keep {search['min_agreement']:g}; this is the best of them")
        most = max(value for key, value in drift.items() if key.startswith("max_"))
        lines.append(
            f"int8: an answer changed with its company in a batch by {most:.2g} at most, on {drift['texts']} texts"
        )
        if len(search["tried"]) > 1:
            head = ("tried", "MB", "expected agreement", *(f"{s} ms" for s in _shapes(search)), "speed")
            lines += _table([head, *(_tried(trial, name, _shapes(search)) for trial in search["tried"])])
            lines.append("expected agreement: on texts not seen; speed: times as fast as plain int8")
        return lines


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as aligned lines, the first column to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return ["  ".join([row[0].ljust(widths[0]), *cells[1:]]) for row, cells in zip(rows, padded, strict=True)]


def _shapes(search: Mapping[str, Any]) -> list[str]:
    return list(next((trial["milliseconds"] for trial in search["tried"] if "milliseconds" in trial), ()))


def _tried(trial: Mapping[str, Any], chosen: str, shapes: Sequence[str]) -> tuple[str, ...]:
    times = trial.get("milliseconds", {})
    return (
        trial["name"] + (" (kept)" if trial["name"] == chosen else ""),
        f"{trial['size'] / 1e6:.1f}",
        f"{trial['expected_agreement']:.4f}" if "expected_agreement" in trial else "1",
        *(f"{times[shape]:.3g}" if shape in times else "" for shape in shapes),
        f"{trial['speed']:.2f}" if "speed" in trial else "",
    )


def _accuracy(name: str, parity: Parity) -> list[str]:
    found = parity.accuracy
    if found is None:
        return []
    of = f"on {found['texts']} labelled texts, the original's {found['original']:.4f}"
    return [f"{name}: accuracy {found['variant']:.4f} {of}"]


def _heading(name: str) -> str:
    """Return the column's heading for a name of `Parity.differences`: "max |logit|", "mean cosine distance"."""
    kind, _, what = name.partition("_")
    short = {"logit": "|logit|", "probability": "|prob|", "hidden": "|hidden|", "cosine_distance": "1 - cosine"}
    return f"{kind} {short[what]}"
