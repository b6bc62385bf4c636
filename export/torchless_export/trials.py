"""What a graph in int8 does to the choosing texts, run as the runtime runs it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from torchless.batching import plan_batches
from torchless.bundle import ModelSource
from torchless.devices import Device
from torchless.manifest import Variant
from torchless.session import Session
from torchless_export.bundling import save
from torchless_export.comparison import COSINE, cosine_distance, leads
from torchless_export.expectation import expected_disagreement

__all__ = ["ChoosingTexts", "Judgement"]

Float32 = npt.NDArray[np.float32]
Arrays = dict[str, npt.NDArray[np.int64]]
TextInput = str | tuple[str, str]

_ROWS = 32
# The least sure of the texts, as one in so many: they are whose answers may change.
_UNSURE = 4


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a graph does to the choosing texts.

    Attributes:
        disagreement: the share of new texts whose answer is expected to change.
        changed: the share of these texts whose answer did.
        moved: by how much leads were moved (root of the mean square), on the quarter of the texts that are least sure.
    """

    disagreement: float
    changed: float
    moved: float


class ChoosingTexts:
    """Texts as one model's inputs, and what that model makes of them in fp32.

    Attributes:
        texts: how many.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        variant: Variant,
        texts: Sequence[TextInput],
        encode: Callable[[Sequence[TextInput]], Arrays],
        problem_type: str | None,
        *,
        pads: bool,
    ) -> None:
        """Run the fp32 `model` on the texts.

        Args:
            model: fp32.
            variant: what the manifest says of it.
            texts: at least one.
            encode: texts -> the graph's inputs, `{name: (batch, sequence) int64}`, padded.
            problem_type: of the labels; None: hidden states are compared.
            pads: whether several texts may stand in one batch.

        Raises:
            BundleError, InferenceError: ONNX Runtime cannot load or run it.
        """
        self._variant = variant
        self._problem_type = problem_type
        self.texts = len(texts)
        self._lengths = [encode([text])["input_ids"].shape[1] for text in texts]

        def plan(chosen: Sequence[int]) -> list[tuple[list[int], Arrays]]:
            lengths = [self._lengths[i] for i in chosen]
            places = plan_batches(lengths, batch_size=_ROWS) if pads else [[i] for i in range(len(chosen))]
            batches = [[chosen[place] for place in batch] for batch in places]
            return [(batch, encode([texts[i] for i in batch])) for batch in batches]

        self._batches = plan(range(self.texts))
        self._original = self._run(model, self._batches)
        leads = self._leads(range(self.texts), self._original)[0]
        self._unsure = [int(i) for i in np.argsort(leads, kind="stable")[: max(1, self.texts // _UNSURE)]]
        self._unsure_batches = plan(self._unsure)

    def judge(self, model: onnx.ModelProto, *, unsure: bool = False) -> Judgement:
        """Run `model`, made of the same in fp32, on the texts; `unsure`: on the least sure quarter, the others as were.

        Raises:
            BundleError, InferenceError: ONNX Runtime cannot load or run it.
        """
        outputs = self._original | self._run(model, self._unsure_batches if unsure else self._batches)
        before, after = self._leads(range(self.texts), outputs)
        moved = (after - before)[self._unsure]
        return Judgement(
            disagreement=expected_disagreement(
                before, after, either_way=self._problem_type not in (None, "regression")
            ),
            changed=float((~(after > 0)).mean()),
            moved=float(np.sqrt(np.square(moved).mean())),
        )

    def _leads(self, places: Sequence[int], outputs: Mapping[int, Float32]) -> tuple[Float32, Float32]:
        """Return the (texts,) leads of the original's answers, there and in `outputs`."""
        if self._problem_type is not None:
            original = np.stack([self._original[place] for place in places])
            return leads(original, np.stack([outputs[place] for place in places]), self._problem_type)
        distances = [cosine_distance(self._original[place], outputs[place]) for place in places]
        allowed = np.float32(1 - COSINE)
        return np.full(len(distances), allowed), allowed - np.array(distances, np.float32)

    def _run(self, model: onnx.ModelProto, batches: Sequence[tuple[list[int], Arrays]]) -> dict[int, Float32]:
        """Return each text's logits (labels,), or its hidden states (sequence, hidden) without padding."""
        outputs: dict[int, Float32] = {}
        with tempfile.TemporaryDirectory(prefix="torchless-") as folder:
            path = Path(folder) / "model.onnx"
            save(model, path)
            session = Session(
                ModelSource(str(path), name=path.name),
                device=Device("cpu"),
                inputs=self._variant.inputs,
                output=self._variant.output,
                disabled_optimizers=self._variant.disabled_optimizers,
                profile="throughput",
            )
            for batch, inputs in batches:
                for place, rows in zip(batch, session.run(inputs), strict=True):
                    outputs[place] = rows if rows.ndim == 1 else rows[: self._lengths[place]].copy()
        return outputs
