"""The search for the fastest int8 recipe that can be expected to keep the agreement asked for.

Plain int8 is tried first, and where it is good enough nothing else is. Else the recipes of `recipes` are, and where
none of those is good enough, the best of them with more and more product groups left in fp32: first the groups that err
most for what they cost. The choosing texts decide what is good enough; of several such recipes the one with the least
work in fp32 is kept, unless another is clearly faster on this machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torchless.cpu import processor_name
from torchless.manifest import Variant
from torchless_export import tuning
from torchless_export.bundling import save
from torchless_export.comparison import json_number
from torchless_export.expectation import accepts
from torchless_export.product_groups import ProductGroup
from torchless_export.quantize import Quantized
from torchless_export.recipes import FIXED, PLAIN, SMOOTHED, Applied, Arrays, Recipe
from torchless_export.trials import ChoosingTexts, Judgement
from torchless_export.tuning import Shape

__all__ = ["Found", "Search", "Sensitivity", "Trial"]

# Where more than this share of the multiplications stays in fp32, int8 is not worth its name.
_MOST_FP32 = 0.6
# Beyond the fewest groups that may be good enough, so many more are tried in turn, and at last all that may be.
_MORE = (0, 1, 2, 3, 4, 5, 6, 8)
# A recipe with more work in fp32 must be this much faster to be preferred.
_GAIN = 0.03

FP32 = Recipe("fp32")


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What quantizing one product group, and nothing else, does to the choosing texts.

    Attributes:
        group: its name.
        share: of the multiplications of all groups.
        judgement: of the model.
    """

    group: str
    share: float
    judgement: Judgement

    def to_manifest(self) -> dict[str, Any]:
        """Return what the manifest records."""
        return {"group": self.group, "share": round(self.share, 4), **_judged(self.judgement)}


@dataclass(frozen=True, slots=True)
class Trial:
    """One recipe, tried.

    Attributes:
        recipe: the recipe.
        judgement: on the choosing texts; None for fp32 itself.
        accepted: whether it can be expected to keep what was asked.
        size: bytes of the graph.
        milliseconds: shape, as "1x16", to the median time of a run; empty: not timed.
        speed: the geometric mean over the shapes of plain int8's time to its own, the median of the rounds.
    """

    recipe: Recipe
    judgement: Judgement | None
    accepted: bool
    size: int
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    speed: float | None = None

    @property
    def disagreement(self) -> float:
        """The share of new texts whose answer is expected to change."""
        return self.judgement.disagreement if self.judgement is not None else 1.0

    def to_manifest(self) -> dict[str, Any]:
        """Return what the manifest records."""
        record = self.recipe.to_manifest() | {"size": self.size}
        if self.judgement is not None:
            record |= {"accepted": self.accepted, **_judged(self.judgement)}
        if self.speed is not None:
            record |= {"milliseconds": dict(self.milliseconds), "speed": round(self.speed, 4)}
        return record


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Attributes:
        quantized: the model by the recipe that was chosen.
        recipe: that recipe.
        accepted: whether it can be expected to keep what was asked; else it is the best that was found.
        record: for the manifest: how it was chosen, and all that was tried.
    """

    quantized: Quantized
    recipe: Recipe
    accepted: bool
    record: Mapping[str, Any]


class Search:
    """One search for one fp32 graph."""

    def __init__(
        self,
        applied: Applied,
        variant: Variant,
        texts: ChoosingTexts,
        *,
        min_agreement: float,
        batch_invariant: bool,
        shapes: Sequence[Shape],
        vocabulary: int,
        scratch: Path,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Prepare a search.

        Args:
            applied: the recipes of the graph.
            variant: what the manifest says of it in int8.
            texts: what judges a recipe.
            min_agreement: what the recipe must be expected to keep.
            batch_invariant: no recipe under which a text's answer depends on its batch.
            shapes: (batch, sequence), which are timed.
            vocabulary: token ids are drawn from 0 to below this.
            scratch: an empty directory.
            progress: called with (recipes tried, 0).
        """
        self._applied = applied
        self._variant = variant
        self._texts = texts
        self._min_agreement = min_agreement
        self._invariant = batch_invariant
        self._shapes = shapes
        self._vocabulary = vocabulary
        self._scratch = scratch
        self._progress = progress
        self._trials: dict[Recipe, Trial] = {}
        self._sensitivities: tuple[Sensitivity, ...] = ()

    def run(self, calibration: Sequence[Arrays] = (), *, sensitivity: bool = False) -> Found:
        """Search; `calibration` and errors as in `quantize_int8`; `sensitivity`: measure it in any case."""
        chosen = self._choose()
        if sensitivity and not self._sensitivities:
            self.sensitivities(replace(chosen.recipe, fp32=()))
        quantized = self._applied.quantize(chosen.recipe, calibration)
        record = {
            "recipe": chosen.recipe.to_manifest(),
            "search": {
                "texts": self._texts.texts,
                "min_agreement": self._min_agreement,
                "batch_invariant": self._invariant,
                "accepted": chosen.accepted,
                "tried": [trial.to_manifest() for trial in self._trials.values()],
                **({"processor": processor_name()} if any(t.milliseconds for t in self._trials.values()) else {}),
                **({"sensitivity": [s.to_manifest() for s in self._sensitivities]} if self._sensitivities else {}),
            },
        }
        return Found(quantized, chosen.recipe, chosen.accepted, record)

    def sensitivities(self, recipe: Recipe) -> tuple[Sensitivity, ...]:
        """Quantize each product group alone by `recipe`, the tables last, and judge it."""
        groups = self._applied.groups
        total = sum(map(self._cost, groups))
        found = []
        for group in groups:
            alone = replace(recipe, fp32=tuple(g.name for g in groups if g != group), embeddings="fp32")
            judgement = self._texts.judge(self._applied.quantize(alone).model, unsure=True)
            found.append(Sensitivity(group.name, self._cost(group) / total, judgement))
            self._progress(len(self._trials) + len(found), 0)
        self._sensitivities = tuple(found)
        return self._sensitivities

    def _choose(self) -> Trial:
        if not self._invariant and self._try(PLAIN).accepted:
            return self._trials[PLAIN]
        for recipe in FIXED:
            self._try(recipe)
        if not self._invariant and self._min_agreement > 0:
            for recipe in SMOOTHED:
                self._try(recipe)
        if not self._good():
            self._keep_some_in_fp32(min((self._trials[r] for r in FIXED), key=_disagreement).recipe)
        self._time()
        return self._fastest(self._good()) if self._good() else min(self._trials.values(), key=_disagreement)

    def _good(self) -> list[Trial]:
        return [trial for trial in self._trials.values() if trial.accepted]

    def _keep_some_in_fp32(self, base: Recipe) -> None:
        """Try `base` with the tables in float16 and ever more groups in fp32, until it is good enough."""
        # Errors of several groups add up in squares.
        order = sorted(self.sensitivities(base), key=lambda s: -(s.judgement.moved**2) / max(s.share, 1e-9))
        whole = sum(s.judgement.moved**2 for s in order) or 1.0
        start = self._trials[base].disagreement
        # The most of them that may stay in fp32.
        most = max((n for n in range(len(order)) if sum(s.share for s in order[:n]) <= _MOST_FP32), default=0)
        # Not tried is what cannot be good enough, even if the guess of it is a quarter too low.
        first = next(
            (
                n
                for n in range(most)
                if accepts(
                    0.75 * start * math.sqrt(sum(s.judgement.moved**2 for s in order[n:]) / whole), self._min_agreement
                )
            ),
            most,
        )
        # The last resort comes last: who asks for more than there is gets the most faithful, not the first tried.
        for count in dict.fromkeys((*(first + more for more in _MORE if first + more < most), most)):
            kept = {s.group for s in order[:count]}
            fp32 = tuple(group.name for group in self._applied.groups if group.name in kept)
            name = f"{base.name}, {len(fp32)} in fp32"
            if self._try(replace(base, name=name, fp32=fp32, embeddings="fp16")).accepted:
                return

    def _try(self, recipe: Recipe) -> Trial:
        model = self._applied.quantize(recipe).model
        judgement = self._texts.judge(model)
        accepted = accepts(judgement.disagreement, self._min_agreement)
        self._trials[recipe] = Trial(recipe, judgement, accepted, model.ByteSize())
        self._progress(len(self._trials), 0)
        return self._trials[recipe]

    def _time(self) -> None:
        """Time every recipe that was tried beside plain int8 and fp32."""
        if not self._shapes:
            return
        models = {PLAIN: self._applied.quantize(PLAIN).model, FP32: self._applied.model}
        self._trials[FP32] = Trial(FP32, None, False, self._applied.model.ByteSize())
        paths: dict[Recipe, Path] = {}
        for number, recipe in enumerate(dict.fromkeys((PLAIN, *self._trials))):
            paths[recipe] = self._scratch / f"{number}.onnx"
            save(models[recipe] if recipe in models else self._applied.quantize(recipe).model, paths[recipe])
        rounds, _ = tuning.time_in_turns(paths, self._variant, self._shapes, vocabulary=self._vocabulary)
        for recipe, trial in self._trials.items():
            self._trials[recipe] = replace(
                trial,
                milliseconds=tuning.median_times(rounds, recipe),
                speed=tuning.time_ratio(rounds, PLAIN, recipe),
            )

    def _fastest(self, good: Sequence[Trial]) -> Trial:
        by_cost = sorted(good, key=lambda t: (self._fp32_cost(t.recipe), t.disagreement))
        best = by_cost[0]
        for trial in by_cost[1:]:
            if trial.speed and best.speed and trial.speed > best.speed * (1 + _GAIN):
                best = trial
        return best

    def _fp32_cost(self, recipe: Recipe) -> float:
        return sum(self._cost(group) for group in self._applied.groups if group.name in recipe.fp32)

    def _cost(self, group: ProductGroup) -> float:
        return float(group.weights * self._applied.statistics.rows[group.activation])


def _disagreement(trial: Trial) -> float:
    return trial.disagreement


def _judged(judgement: Judgement) -> dict[str, float]:
    return {
        "expected_agreement": round(1 - judgement.disagreement, 5),
        "agreement": round(1 - judgement.changed, 5),
        "moved": round(json_number(judgement.moved), 5),
    }
