"""Charts of what an int8 search saw, as SVG: plain text, drawn here, so that exporting needs no plotting library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["frontier", "sensitivity"]

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 230, 40, 50
_STYLE = (
    "text{font:12px sans-serif;fill:#222}.t{font-size:14px;font-weight:bold}.a{stroke:#888;fill:none}"
    ".g{stroke:#ddd;fill:none}.w{stroke:#c33;fill:none;stroke-dasharray:5 4}.y{fill:#2a6}.n{fill:#c63}.b{fill:#47a}"
)


def frontier(tried: Sequence[Mapping[str, Any]], chosen: str, min_agreement: float) -> str:
    """Return a chart of agreement against speed.

    Args:
        tried: the manifest's `quantization.search.tried`; what was not timed is left out.
        chosen: the name of the recipe that was kept.
        min_agreement: what was asked.
    """
    points = [
        (trial["name"], trial["speed"], trial.get("expected_agreement", 1.0), trial.get("accepted", True))
        for trial in tried
        if "speed" in trial
    ]
    most = max((x for _, x, _, _ in points), default=1.0) * 1.05
    lowest = min([y for _, _, y, _ in points] + [min_agreement, 1 - 1e-4])
    bottom = max(0.0, lowest - 0.1 * (1 - lowest))

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + x / most * (_WIDTH - _LEFT - _RIGHT)
        return across, _TOP + (1 - y) / (1 - bottom) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_text(_LEFT, 22, "expected agreement with fp32 against speed", "t")]
    for i in range(6):
        x, y = most * i / 5, bottom + (1 - bottom) * i / 5
        (across, _), (_, down) = place(x, bottom), place(0, y)
        parts += [_line(across, _TOP, across, _HEIGHT - _BOTTOM, "g"), _line(_LEFT, down, _WIDTH - _RIGHT, down, "g")]
        parts += [_text(across - 10, _HEIGHT - _BOTTOM + 18, f"{x:.2f}"), _text(14, down + 4, f"{y:.4f}")]
    parts.append(_text(_LEFT, _HEIGHT - 12, "times as fast as plain int8"))
    _, asked = place(0, min_agreement)
    parts += [
        _line(_LEFT, asked, _WIDTH - _RIGHT, asked, "w"),
        _text(_LEFT + 4, asked - 4, f"asked: {min_agreement:g}"),
    ]
    for number, (name, x, y, good) in enumerate(points, start=1):
        across, down = place(x, y)
        radius = 7 if name == chosen else 4
        parts.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="{radius}" class="{"y" if good else "n"}"/>')
        parts.append(_text(across + 8, down - 6, str(number)))
        kept = " (kept)" if name == chosen else ""
        parts.append(_text(_WIDTH - _RIGHT + 12, _TOP + 18 * number, f"{number}  {name}{kept}"))
    return _document(_HEIGHT, parts)


def sensitivity(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a bar chart of how far quantizing each product group alone moves leads.

    Args:
        rows: the manifest's `quantization.search.sensitivity`.
    """
    most = max((row["moved"] for row in rows), default=0) or 1.0
    left, height = 230, 40 + 18 * len(rows) + 20
    parts = [_text(14, 22, "int8 in one group alone: how far it moves the lead of unsure answers", "t")]
    for number, row in enumerate(rows):
        top = 40 + 18 * number
        wide = row["moved"] / most * (_WIDTH - left - 80)
        parts.append(_text(14, top + 12, row["group"]))
        parts.append(f'<rect x="{left}" y="{top}" width="{wide:.1f}" height="14" class="b"/>')
        parts.append(_text(left + wide + 6, top + 12, f"{row['moved']:.3g}"))
    return _document(height, parts)


def _document(height: int, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}">'
    body = [f"<style>{_STYLE}</style>", f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>', *parts]
    return "\n".join([head, *body, "</svg>", ""])


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{named}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" class="{kind}"/>'
