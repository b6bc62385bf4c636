"""`torchless inspect`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import click

from torchless.bundle import Bundle
from torchless.cli import options
from torchless.cpu import features
from torchless.errors import one_line
from torchless.manifest import MANIFEST_NAME, Manifest, Variant
from torchless.pipelines.factory import open_bundle


@click.command()
@click.argument("bundle")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as it is.")
@options.debug
def command(bundle: str, as_json: bool) -> None:
    """Show what BUNDLE holds: variants, labels, how far each agrees with the original, where it comes from.

    Every file is checked against the manifest.

    \b
    Examples:
      torchless inspect sst2
      torchless inspect sst2 --json | jq .variants.int8.parity
    """
    found = open_bundle(bundle)
    if as_json:
        as_it_is = (
            (found.path / MANIFEST_NAME).read_text(encoding="utf-8") if found.verified else found.manifest.to_json()
        )
        click.echo(as_it_is, nl=False)
        return
    # All of it first: a bundle that fails the check is not described as if it were whole.
    click.echo("\n".join(_describe(found)))


def _trust(variant: Variant) -> str:
    """Return how far a variant can be trusted, in a few words."""
    parity = variant.parity
    if parity is None:
        return "never compared with the original"
    if not parity.get("proven", True):
        return f"unproven: {parity.get('texts')} texts judged"
    low = parity.get("agreement_low95", 0)
    words = "trust it" if low >= 0.99 else "compare it on your texts"
    # Not rounded: what is promised must not be more than what was found.
    share = f"{math.floor(1000 * low) / 10:.1f} of 100"
    return f"{words}: at least {share} answers are the original's, on texts like those below"


def _describe(bundle: Bundle) -> Iterator[str]:
    manifest = bundle.manifest
    yield f"{bundle.path}"
    kind = f", {manifest.problem_type}" if manifest.problem_type else ""
    yield f"  task          {manifest.task}{kind}"
    yield f"  architecture  {one_line(manifest.architecture, 60)}"
    if manifest.labels:
        yield f"  labels        {_shorten([one_line(label, 40) for label in manifest.labels])}"
    yield f"  tokenizer     {_tokenizer(manifest)}"
    for name, variant in manifest.variants.items():
        yield f"  {name}: {_trust(variant)}"
        yield from ("    " + line for line in _variant(bundle, variant))
    yield from _provenance(manifest)
    if bundle.verified:
        checked = _verify(bundle)
        yield f"  files         {checked} checked against their sha256: unchanged"
    else:
        yield "  unverified: not made by `torchless export`; nobody compared it with a checkpoint"


def _variant(bundle: Bundle, variant: Variant) -> Iterator[str]:
    size = sum((bundle.path / path).stat().st_size for path in variant.files if (bundle.path / path).exists())
    where = {"any": "CPU and CUDA", "cpu": "CPU", "cuda": "CUDA"}[variant.device]
    isa = f" with {' or '.join(variant.isa)}" if variant.isa else ""
    here = "" if not variant.isa or features() & set(variant.isa) else " (not this processor)"
    made_by = f"by {one_line(variant.converter, 40)}, opset {variant.opset}"
    yield f"{', '.join(variant.files)}, {size / 1e6:.1f} MB, for {where}{isa}{here}; {made_by}"
    parity = variant.parity
    if parity is None:
        return
    ids = "equal" if parity.get("ids_equal") else "NOT equal"
    proven = "" if parity.get("proven", True) else ", unproven: too few texts"
    yield (
        f"agreement {parity.get('agreement', 0):.4f} with {parity.get('reference')} on {parity.get('texts')} texts "
        f"({one_line(str(parity.get('source')), 60)}), "
        f"at least {parity.get('agreement_low95', 0):.4f} with 95 % confidence{proven}"
    )
    # What is compared goes by the task: logits and scores, or hidden states and the cosine of the two.
    if "max_hidden" in parity:
        element, change, most, mean = (
            "an element",
            "direction (1 - cosine)",
            "max_cosine_distance",
            "mean_cosine_distance",
        )
    else:
        element, change, most, mean = "a logit", "score", "max_probability", "mean_probability"
    largest = parity.get("max_hidden", parity.get("max_logit", 0))
    yield (
        f"token ids {ids}; largest change of {element} {largest:.2g}, of a {change} "
        f"{parity.get(most, 0):.2g}, on average {parity.get(mean, 0):.2g}"
    )
    accuracy = parity.get("accuracy")
    if isinstance(accuracy, dict):
        yield (
            f"accuracy {accuracy.get('variant', 0):.4f} on {accuracy.get('texts')} labelled texts, "
            f"the original's {accuracy.get('original', 0):.4f}"
        )
    drift = parity.get("batch_drift") or {}
    if "batch_drift" in (parity.get("tolerance") or {}):
        by = drift.get(most, 0)
        yield f"batch-invariant: a text's {change} does not change with its company in a batch (by {by:.2g})"
    elif drift:
        yield (
            f"a text's {change} changed with its company in a batch by {drift.get(most, 0):.2g} at most, "
            f"{drift.get(mean, 0):.2g} on average, on {drift.get('texts')} texts"
        )
    tuned = variant.tuning
    if tuned:
        yield _tuning(tuned)
    made = variant.quantization
    if made:
        yield from _recipe(made)
        risk = made.get("saturating_columns")
        yield (
            f"{made.get('products')} products in int8; {made.get('widened_columns')} of {made.get('columns')} columns "
            "have a wider scale, so that no text saturates on any processor"
            + (f" ({risk} would have, on the calibration texts)" if risk is not None else "")
        )


def _recipe(made: Mapping[str, Any]) -> Iterator[str]:
    """Yield the line on how int8 was made, as far as its record can be read."""
    recipe, search = made.get("recipe"), made.get("search")
    if not isinstance(recipe, dict):
        return
    fp32 = recipe.get("fp32") or []
    kept = f"; in fp32: {one_line(', '.join(map(str, fp32)), 200)}" if fp32 else ""
    given = search.get("tried") if isinstance(search, dict) else None
    # fp32 itself is timed beside the recipes, and nothing was expected of it.
    tried = [t for t in given if isinstance(t, dict) and "accepted" in t] if isinstance(given, list) else []
    good = sum(bool(trial["accepted"]) for trial in tried)
    how = f", one of {good} that are expected to keep the promise, of {len(tried)} tried" if len(tried) > 1 else ""
    if isinstance(search, dict) and not search.get("accepted", True):
        how = ", the best that was found, though not expected to keep the promise"
    expected = next((t.get("expected_agreement") for t in tried if t.get("name") == recipe.get("name")), None)
    if isinstance(expected, float):
        how += f"; expected agreement on texts not seen {expected:.4f}"
    yield f"made by the recipe {one_line(str(recipe.get('name')), 80)!r}{how}{kept}"


def _tuning(tuned: Mapping[str, Any]) -> str:
    """Return the line on a variant's tuning, as far as its record can be read."""
    tried = [row for row in tuned.get("tried") or () if isinstance(row, dict)]
    kept = next((row for row in tried if row.get("form") == tuned.get("form")), {})
    times = kept.get("milliseconds")
    shapes = (
        ", ".join(f"{shape} {value} ms" for shape, value in times.items()) if isinstance(times, dict) else "unknown"
    )
    where = one_line(f"{tuned.get('processor')} with {tuned.get('threads')} threads", 80)
    return f"tuned on {where}, the fastest of {len(tried)} forms: {one_line(shapes, 200)}"


def _tokenizer(manifest: Manifest) -> str:
    spec = manifest.tokenizer
    cut = f"cuts at {spec.max_length} tokens" if spec.max_length else "never cuts"
    limit = f"position table of {spec.position_limit}" if spec.position_limit else "no position table"
    pad = f"pads {spec.padding_side} with {spec.pad_id}" if spec.pad_id is not None else "has no pad token"
    return f"{cut}, {limit}, {pad}"


def _provenance(manifest: Manifest) -> Iterator[str]:
    made = manifest.provenance
    if not made:
        return
    revision = f" at {one_line(str(made['revision']), 40)}" if made.get("revision") else ""
    when = one_line(str(made.get("created")), 30)
    yield f"  made from     {one_line(str(made.get('checkpoint')), 80)}{revision}, {when}"
    yield f"  weights       sha256 {one_line(str(made.get('weights_sha256')), 64)}"
    versions = made.get("versions")
    if isinstance(versions, dict):
        yield "  made with     " + one_line(", ".join(f"{name} {version}" for name, version in versions.items()), 300)


def _verify(bundle: Bundle) -> int:
    """Read every file and check it, model files too; returns how many."""
    models = {path for variant in bundle.manifest.variants.values() for path in variant.files}
    small = [entry.path for entry in bundle.manifest.files if entry.path not in models]
    for name in small:
        bundle.read(name)
    for variant in bundle.manifest.variants:
        with bundle.model(variant):
            pass
    return len(small) + len(models)


def _shorten(labels: list[str]) -> str:
    shown = ", ".join(labels[:8])
    return shown if len(labels) <= 8 else f"{shown}, ... ({len(labels)} in all)"
