"""Which of a bundle's graphs runs on a device."""

from __future__ import annotations

from collections.abc import Mapping

from torchless.cpu import features
from torchless.devices import Device
from torchless.errors import InputError, ProviderError, warn_once
from torchless.manifest import Variant


def choose_variant(variants: Mapping[str, Variant], device: Device, name: str | None) -> str:
    """Return the variant to run on `device`.

    Unnamed: on CUDA fp16, else fp32, never int8; on the CPU int8 where the processor has a feature that
    the variant suits, else fp32. Warns once of a variant for CUDA that was never judged on a GPU.

    Raises:
        InputError: the bundle has no variant of that name.
        ProviderError: the variant named is for another device, or none suits this one.
    """
    if name is not None:
        if name not in variants:
            raise InputError(f"variant {name!r} is not in the bundle, which has {', '.join(variants)}")
        _check_named(name, variants[name], device)
        _tell_unproven(name, variants[name], device)
        return name
    order = ("fp16", "fp32") if device.kind == "cuda" else ("int8", "fp32")
    for candidate in order:
        if candidate in variants and _suits(variants[candidate], device):
            _tell_unproven(candidate, variants[candidate], device)
            return candidate
    raise ProviderError(
        f"none of the bundle's variants ({', '.join(variants)}) suits {device} here; "
        "export fp32 as well, or name one to run it anyway"
    )


def likely_variant(variants: Mapping[str, Variant], device: Device, name: str | None) -> str | None:
    """Return what `choose_variant` gives where "auto" turns out to be the CPU; None: an error."""
    try:
        return choose_variant(variants, Device("cpu") if device.kind == "auto" else device, name)
    except (InputError, ProviderError):
        return None


def _suits(variant: Variant, device: Device) -> bool:
    if variant.device not in ("any", device.kind):
        return False
    return device.kind == "cuda" or not variant.isa or bool(features() & set(variant.isa))


def _tell_unproven(name: str, variant: Variant, device: Device) -> None:
    # A directory that is no bundle was never judged at all, which its own warning says.
    if device.kind == variant.device == "cuda" and variant.parity and variant.parity.get("device") != "cuda":
        warn_once(
            f"variant {name!r} was judged by an emulation on a CPU, not yet on a GPU; export the bundle on a machine "
            "with a GPU to prove it there"
        )


def _check_named(name: str, variant: Variant, device: Device) -> None:
    if variant.device not in ("any", device.kind):
        raise ProviderError(
            f"variant {name!r} is for {variant.device}, not for {device}; leave the variant out to choose"
        )
    if not _suits(variant, device):
        has = ", ".join(sorted(features())) or "none that is known"
        warn_once(
            f"variant {name!r} suits {', '.join(variant.isa)}; this processor has {has}: answers may differ "
            "from those measured at export"
        )
