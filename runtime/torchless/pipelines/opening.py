"""A bundle's graph on its way to a session, on threads, while the caller imports and loads the rest.

Of the time until the first answer a third is spent on imports, which hold the interpreter's lock, and a third on
hashing the model and opening it, which do not.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from torchless.bundle import Bundle, ModelSource
from torchless.devices import Device, parse_device
from torchless.parallel import Begun
from torchless.pipelines.variants import choose_variant, likely_variant

if TYPE_CHECKING:
    from torchless.session import Session


class Opening:
    """A session being opened.

    Attributes:
        device: where it will run; never "auto".
        variant: which of the bundle's graphs it runs.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: Any,
        variant: str | None,
        threads: int | None = None,
        profile: str = "latency",
        gpu_mem_limit: int | None = None,
    ) -> None:
        """Choose a device and a variant, and begin.

        Raises:
            ProviderError, InputError: the device or the variant does not exist or does not work here.
            BundleError: a bundle that nobody vouches for failed its trial, see `torchless.probe`.
        """
        wanted = parse_device(device)
        early = _Early(bundle, likely_variant(bundle.manifest.variants, wanted, variant) if bundle.trusted else None)
        try:
            from torchless.session import choose_device  # with NumPy and ONNX Runtime, while `early` hashes

            self.device: Device = choose_device(wanted)
            self.variant = choose_variant(bundle.manifest.variants, self.device, variant)
            if not bundle.trusted:
                from torchless.probe import probe

                probe(bundle, self.variant, self.device)
        except BaseException:
            early.close()
            raise
        self._session = Begun(
            lambda: _open(
                early,
                bundle,
                self.variant,
                device=self.device,
                threads=threads,
                profile=profile,
                gpu_mem_limit=gpu_mem_limit,
            )
        )

    def session(self) -> Session:
        """Wait for the session.

        Raises:
            BundleError, ProviderError, InputError: as `Session`; or a file is not what the manifest says.
        """
        return self._session.result()

    def wait(self) -> None:
        """Return when nothing is under way any more."""
        self._session.wait()


def open_session(bundle: Bundle, variant: str, **options: Any) -> Session:
    """Open one of the bundle's graphs; `options` are those of `Opening`, but for a device already chosen.

    Raises as `Opening.session`.
    """
    return _open(_Early(bundle, None), bundle, variant, **options)


class _Early:
    """The files of the variant that will probably be chosen, opened and checked before it is known."""

    def __init__(self, bundle: Bundle, variant: str | None) -> None:
        self._variant = variant
        self._files = ExitStack()
        self._model: Begun[ModelSource] | None = None
        if variant is not None:
            model = bundle.model(variant)
            self._model = Begun(lambda: self._files.enter_context(model))

    def take(self, variant: str, bundle: Bundle) -> ModelSource:
        """Return the files of `variant`, open until `close`."""
        if self._model is not None and variant == self._variant:
            return self._model.result()
        return self._files.enter_context(bundle.model(variant))

    def close(self) -> None:
        if self._model is not None:
            self._model.wait()
        self._files.close()


def _open(
    early: _Early,
    bundle: Bundle,
    variant: str,
    *,
    device: Device,
    threads: int | None,
    profile: str,
    gpu_mem_limit: int | None,
) -> Session:
    from torchless.session import Session

    graph = bundle.manifest.variants[variant]
    try:
        return Session(
            early.take(variant, bundle),
            device=device,
            inputs=graph.inputs,
            output=graph.output,
            threads=threads,
            profile=profile,
            disabled_optimizers=graph.disabled_optimizers,
            gpu_mem_limit=gpu_mem_limit,
            # A session that may record runs one batch at a time: for one caller's latency, not for many callers.
            graphs=graph.cuda_graphs and profile == "latency",
            longest=bundle.manifest.tokenizer.position_limit,
        )
    finally:
        early.close()
