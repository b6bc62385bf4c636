"""Options that several commands share, checked as far as the command line alone allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from torchless.devices import parse_device
from torchless.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])


def _device(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        parse_device(value)
    except InputError as error:
        raise click.BadParameter(str(error), ctx, parameter) from None
    return value


def device(function: F) -> F:
    """Add --device."""
    return click.option(
        "--device", default="auto", show_default=True, callback=_device, metavar="D", help="auto, cpu, cuda or cuda:N."
    )(function)


def variant(function: F) -> F:
    """Add --variant."""
    return click.option(
        "--variant", metavar="V", help="The graph to run: fp32, int8.  [default: what suits the device]"
    )(function)


def threads(function: F) -> F:
    """Add --threads."""
    return click.option(
        "--threads", type=click.IntRange(1, 1024), metavar="N", help="Of a CPU session.  [default: the usable CPUs]"
    )(function)


def debug(function: F) -> F:
    """Add --debug, which `app.run_process` looks for, so that it may also stand behind the command."""
    return click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")(function)
