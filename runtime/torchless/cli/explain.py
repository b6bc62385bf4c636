"""`torchless explain`."""

from __future__ import annotations

import click

from torchless.cli import options
from torchless.errors import InputError


@click.command()
@click.argument("bundle")
@click.argument("text")
@click.option("--pair", metavar="TEXT", help="The second text, for a model of pairs.")
@options.variant
@options.device
@options.threads
@options.debug
def command(bundle: str, text: str, pair: str | None, variant: str | None, device: str, threads: int | None) -> None:
    """Show every step of classifying TEXT: tokens, ids, mask, logits, probabilities, and the time of each.

    A text over the model's maximum is cut, as `torchless run` does.

    \b
    Examples:
      torchless explain sst2 "I've been waiting for a HuggingFace course my whole life."
      torchless explain nli "A man sleeps." --pair "Somebody is asleep." --variant fp32
    """
    from torchless.pipelines.factory import pipeline
    from torchless.pipelines.text_classification import TextClassificationPipeline

    with pipeline(model=bundle, device=device, variant=variant, threads=threads) as classify:
        if not isinstance(classify, TextClassificationPipeline):
            raise InputError(f"{bundle}: a bundle for {classify.task}; only text-classification has steps to explain")
        classify.warmup()
        explanation = classify.explain({"text": text, "text_pair": pair or ""}, truncation=True)
        click.echo(f"{classify.bundle}: {classify.variant} on {classify.provider}")
        click.echo(str(explanation))
