"""CPU against GPU: from which batch and length on which of them wins, and what a million texts cost on each.

Pure arithmetic on a report's workloads: the same on a run that has just ended and on one read from its JSON.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torchless.devices import parse_device
from torchless.errors import InputError

_HOUR = 3600
_MILLION = 1_000_000


def read_prices(given: Mapping[str, str]) -> dict[str, float]:
    """Read prices per hour by device, from what `--price` was given.

    Raises:
        InputError: no price, or no device.
    """
    prices = {}
    for name, text in given.items():
        kind = parse_device(name).kind
        try:
            price = float(text)
        except ValueError:
            price = math.nan
        if kind == "auto" or not (math.isfinite(price) and price > 0):
            raise InputError(f"--price is {name}={text}, wanted a device and a price per hour: cpu=0.10")
        prices[kind] = price
    return prices


def summary(
    workloads: Sequence[Mapping[str, Any]], contenders: Iterable[Mapping[str, Any]], prices: Mapping[str, float]
) -> dict[str, Any]:
    """Return the report's part on devices.

    Args:
        workloads: as the report has them.
        contenders: as the report has them; torchless's own count.
        prices: per hour, by kind of device.

    `grid` has one entry for each workload that both ways or one was measured on: the fastest contender of each kind of
    device with its texts in a second, who of them wins, and what a million texts cost. `crossover` has, for each number
    of tokens, the smallest batch from which on the GPU wins at every batch measured; None: from none. It is empty where
    the GPU was not measured.
    """
    own = [row for row in contenders if row["family"] == "torchless"]
    kinds = {row["name"]: parse_device(row["device"]).kind for row in own}
    grid = []
    for workload in workloads:
        if workload["kind"] not in ("forward", "answer"):
            continue
        fastest: dict[str, dict[str, Any]] = {}
        for result in workload["results"]:
            kind = kinds.get(result["contender"])
            if kind is None:
                continue
            rate = workload["work"] / result["seconds"]
            if kind not in fastest or rate > fastest[kind]["texts_per_second"]:
                cost = prices[kind] / _HOUR / rate * _MILLION if kind in prices else None
                fastest[kind] = {"contender": result["contender"], "texts_per_second": rate, "cost": cost}
        if fastest:
            best = max(fastest, key=lambda kind: fastest[kind]["texts_per_second"])
            costs = {kind: found["cost"] for kind, found in fastest.items() if found["cost"] is not None}
            grid.append(
                {
                    "workload": workload["name"],
                    "kind": workload["kind"],
                    "rows": workload["rows"],
                    "tokens": workload["tokens"],
                    "devices": fastest,
                    "fastest": best if len(fastest) > 1 else None,
                    "cheapest": min(costs, key=lambda kind: costs[kind]) if len(costs) > 1 else None,
                }
            )
    return {"prices": dict(prices), "grid": grid, "crossover": crossover(grid)}


def crossover(grid: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return, by tokens, the smallest batch from which on the GPU wins at every batch that was measured."""
    won: dict[int, list[tuple[int, bool]]] = {}
    for cell in grid:
        if cell["kind"] == "forward" and cell["fastest"] is not None:
            won.setdefault(cell["tokens"], []).append((cell["rows"], cell["fastest"] == "cuda"))
    found = []
    for tokens, cells in sorted(won.items()):
        cells.sort()
        losses = [rows for rows, gpu in cells if not gpu]
        after = [rows for rows, gpu in cells if gpu and rows > max(losses, default=0)]
        found.append({"tokens": tokens, "rows": min(after, default=None), "measured": [rows for rows, _ in cells]})
    return found
