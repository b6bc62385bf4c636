"""`torchless`: the group of commands, and what becomes of errors, warnings and signals.

Exit status: 0 done; 2 what the command line alone shows to be wrong; 1 anything learned from disk,
network or model; 130 interrupted, 143 terminated. A traceback only with `--debug`.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
import warnings
from types import FrameType
from typing import Any, NoReturn

import click

from torchless import __version__
from torchless.errors import TorchlessError, TorchlessWarning, one_line

_COMMANDS = ("export", "run", "explain", "inspect", "doctor", "bench")


class _Commands(click.Group):
    """Commands by name, each imported when it is called: `torchless run` must not wait for the exporter."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"torchless.cli.{cmd_name}").command
        return command


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="torchless")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def app(ctx: click.Context, debug: bool) -> None:
    """Hugging Face text classifiers without PyTorch: exported, verified, fast.

    \b
    torchless export my-checkpoint my-bundle      a checkpoint becomes a verified bundle
    torchless run my-bundle "What a film!"        the bundle answers
    torchless explain my-bundle "What a film!"    every step of one answer
    torchless inspect my-bundle                   what a bundle holds, and how far it can be trusted
    torchless bench my-bundle                     how fast it is here, beside its peers
    torchless doctor                              what is installed here, and what works
    """
    # `--debug` is read by `run_process`, which has to know it before anything can fail.
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run_process() -> NoReturn:
    """Run the command line of this process; never returns."""
    debug = "--debug" in sys.argv[1:]
    warnings.showwarning = _show_warning
    signal.signal(signal.SIGTERM, _terminate)
    status = 0
    try:
        result = app.main(standalone_mode=False)
        status = result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        status = stop.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "torchless"
        _complain(f"error: {error.format_message().rstrip('.')}; see `{command} --help`")
        status = 2
    except click.ClickException as error:
        _complain(f"error: {one_line(error.format_message())}")
        status = 1
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted")
        status = 130
    except SystemExit:  # SIGTERM, of which the notes alone are left to say
        _complain()
        raise
    except BrokenPipeError:
        # Whoever read our output stopped: nothing is wrong, and nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except TorchlessError as error:
        if debug:
            traceback.print_exc()
        _complain(f"error: {error}")
        status = 1
    except MemoryError:
        _complain("error: out of memory; try a smaller --batch-size or fewer --threads")
        status = 1
    except OSError as error:
        if debug:
            traceback.print_exc()
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"error: {where}{error.strerror or error}")
        status = 1
    except Exception as error:  # a bug; the person who meets it still gets one line
        if debug:
            traceback.print_exc()
        _complain(f"error: internal: {type(error).__name__}: {error}; run again with --debug and report it")
        status = 1
    sys.exit(status)


def _complain(line: str = "") -> None:
    """Say `line`, and the notes of the exception that is being handled: what it left, and what can be done."""
    error = sys.exception()
    # click turns KeyboardInterrupt into Abort.
    errors = [e for e in (error, error.__cause__ if error else None) if e is not None]
    for said in (line, *(note for e in errors for note in getattr(e, "__notes__", ()))):
        if said:
            _say(said)


def _say(line: str) -> None:
    click.echo(one_line(line), err=True)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    if issubclass(category, TorchlessWarning):
        _say(f"warning: {message}")


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
