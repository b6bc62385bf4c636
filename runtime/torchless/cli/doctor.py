"""`torchless doctor`."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import click

from torchless import __version__
from torchless.cli import options
from torchless.cpu import features, usable_cpus
from torchless.devices import CPU_PROVIDER, CUDA_PROVIDER, cuda_driver, installed_runtimes
from torchless.errors import ProviderError
from torchless.nvidia import cuda_versions, driver_version, gpus, library_packages

# What `torchless export` needs for the architectures whose graphs it writes, and what for every other one.
_EXPORT = ("onnx", "safetensors")
_CONVERT = ("optimum-onnx", "transformers", "torch")


@dataclass(frozen=True, slots=True)
class _Finding:
    """One line: `ok` is True, False (a fault), or None (a fact)."""

    text: str
    ok: bool | None = None

    def __str__(self) -> str:
        return {True: "  ok     ", False: "  FAULT  ", None: "         "}[self.ok] + self.text


@click.command()
@options.debug
def command() -> None:
    """Show what is installed here, which providers really run a node, what is wrong and how to mend it.

    Exits with 1 if something that running needs is broken.

    \b
    Example:
      torchless doctor
    """
    findings = list(_examine())
    for finding in findings:
        click.echo(str(finding))
    if any(finding.ok is False for finding in findings):
        raise click.exceptions.Exit(1)


def _examine() -> Iterator[_Finding]:
    yield _Finding(
        f"torchless {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    )
    has = ", ".join(sorted(features())) or "none that is known: int8 is not chosen unasked"
    yield _Finding(f"{usable_cpus()} CPUs for this process; features for int8: {has}")
    for name in ("numpy", "tokenizers"):
        yield _package(name, needed=True)
    packages = installed_runtimes()
    for name, version in sorted(packages.items()):
        yield _Finding(f"{name} {version}", ok=len(packages) == 1)
    if len(packages) > 1:
        yield _Finding(
            "only one of these may be installed, they overwrite each other's files: "
            f"pip uninstall -y {' '.join(sorted(packages))}, then pip install 'torchless[cpu]' or 'torchless[gpu]'",
            ok=False,
        )
    yield from _providers()
    yield from _exporting()


def _exporting() -> Iterator[_Finding]:
    for name in (*_EXPORT, *_CONVERT):
        if _version(name) is not None:
            yield _package(name, needed=False)
    lacks = [name for name in _EXPORT if _version(name) is None]
    if lacks:
        yield _Finding(
            f"not installed: {', '.join(lacks)}; `torchless export` needs them: pip install 'torchless[cpu,export]'"
        )
        return
    others = [name for name in _CONVERT if _version(name) is None]
    if others:
        yield _Finding("`torchless export` has what the architectures need whose graphs it writes", ok=True)
        yield _Finding(
            f"not installed: {', '.join(others)}; other architectures need them: pip install 'torchless[cpu,optimum]'"
        )
    else:
        yield _Finding("`torchless export` has what every architecture needs", ok=True)


def _providers() -> Iterator[_Finding]:
    # Imported here: that it cannot be imported is one of the findings.
    from torchless.session import available_providers, cuda_build, cuda_problem, probe_provider, runtime_version

    try:
        providers = available_providers()
        version = runtime_version()
    except ProviderError as error:
        yield _Finding(str(error), ok=False)
        for name in sorted(installed_runtimes()):
            # What is left where another wheel's files lay on top of it and were taken away with that.
            yield _Finding(
                f"{name} is installed, but not whole: pip install --force-reinstall --no-deps {name}", ok=False
            )
        return
    yield _Finding(f"ONNX Runtime {version} imports; it was built with {', '.join(providers)}", ok=True)
    problem = probe_provider(CPU_PROVIDER)
    yield _Finding(f"{CPU_PROVIDER}: {problem or 'runs a node'}", ok=problem is None)
    driver = cuda_driver()
    for number, gpu in enumerate(gpus()):
        yield _Finding(
            f"GPU {number}: {gpu.name}, compute capability {gpu.capability[0]}.{gpu.capability[1]}, "
            f"{gpu.free / 2**30:.1f} of {gpu.memory / 2**30:.1f} GiB free"
        )
    if CUDA_PROVIDER not in providers:
        yield _Finding(
            "no CUDA provider in this package; for an NVIDIA GPU: "
            "pip uninstall -y onnxruntime, then pip install 'torchless[gpu]'"
        )
        return
    yield from _cuda(driver, cuda_build(), cuda_problem)


def _cuda(
    driver: tuple[int, str] | str, built: str | None, cuda_problem: Callable[[int], str | None]
) -> Iterator[_Finding]:
    """Yield what is there of CUDA, and of each GPU whether it runs a node."""
    if not isinstance(driver, str):
        yield _Finding(f"NVIDIA driver {driver_version() or 'of an unknown version'}, CUDA up to {driver[1]}", ok=True)
    packages = ", ".join(f"{name} {version}" for name, version in sorted(library_packages().items()))
    yield _Finding(
        f"built for CUDA {built or 'of an unknown version'}; NVIDIA's libraries from pip: {packages or 'none'}"
    )
    told = None
    for index in range(1 if isinstance(driver, str) else driver[0]):
        problem = cuda_problem(index)
        if problem is not None and problem == told:  # what is wrong with all of them
            continue
        told = problem
        versions = ", ".join(f"{name} {version}" for name, version in cuda_versions().items())
        runs = f"runs a node on cuda:{index}" + (f" with {versions}" if versions else "")
        yield _Finding(f"{CUDA_PROVIDER}: {problem or runs}", ok=problem is None)


def _package(name: str, *, needed: bool) -> _Finding:
    version = _version(name)
    if version is None:
        return _Finding(
            f"{name} is not installed: {sys.executable} -m pip install {name}", ok=False if needed else None
        )
    return _Finding(f"{name} {version}", ok=True)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
