"""The command line: `main` in `app.py`, one module for each command."""

from __future__ import annotations


def main() -> None:
    """Run `torchless` with the arguments of this process and exit with its status."""
    from torchless.cli.app import run_process

    run_process()
