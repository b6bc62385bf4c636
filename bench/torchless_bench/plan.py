"""From what was asked for to what is run: which contenders, where their models lie, who does which workload."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from torchless.bundle import Bundle
from torchless.cpu import usable_cpus
from torchless.devices import parse_device
from torchless.errors import InputError
from torchless.pipelines.factory import open_bundle
from torchless.records import open_records
from torchless_bench.contenders import CONTENDERS, ROLES, Contender
from torchless_bench.inputs import Inputs
from torchless_bench.limits import LEAST
from torchless_bench.targets import TARGETS, Target
from torchless_bench.workloads import DEFAULT, GRID, LIMITS, SETS, WORKLOADS, Workload

ALL = "all"

Row = TypeVar("Row", Contender, Workload)


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run is made.

    Attributes:
        threads: of every contender.
        rounds: in each of which every contender has one turn.
        seconds: of a turn, which has at least one call.
        warmup: seconds that a contender runs before its first turn of a workload, at least one call.
        calls: the most calls in a turn.
        seed: of the texts, the token ids, the order of turns and the intervals.
        time_limit: seconds in which a contender must load, warm up, or finish a turn.
    """

    threads: int = field(default_factory=usable_cpus)
    rounds: int = 5
    seconds: float = 0.05
    warmup: float = 0.05
    calls: int = 1000
    seed: int = 0
    time_limit: float = 300


@dataclass(frozen=True, slots=True)
class Comparison:
    """One workload, the names of those who do it, and whom they are compared with."""

    workload: Workload
    contenders: tuple[str, ...]
    baseline: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A run, ready to be made.

    Attributes:
        bundles: those given; the first one's tokenizer makes the texts.
        inputs: what the contenders are given.
        contenders: in the order of the tables, their models known.
        comparisons: in the order in which they are made.
        skipped: why a contender that was asked for takes no part, by name.
        left_out: why a workload that was asked for is not done, by name.
        targets: to be judged at the end.
        settings: how.
    """

    bundles: tuple[Bundle, ...]
    inputs: Inputs
    contenders: tuple[Contender, ...]
    comparisons: tuple[Comparison, ...]
    skipped: Mapping[str, str]
    left_out: Mapping[str, str]
    targets: tuple[Target, ...]
    settings: Settings


def choose(
    table: Sequence[Row], names: Iterable[str], what: str, sets: Mapping[str, Sequence[str]] | None = None
) -> tuple[Row, ...]:
    """Return the rows of these names, in their order; "all" stands for every one, a key of `sets` for those it holds.

    Raises:
        InputError: no such name; the message lists those there are.
    """
    rows: dict[str, Row] = {row.name: row for row in table}
    groups: dict[str, Sequence[str]] = {**(sets or {}), ALL: tuple(rows)}
    chosen: dict[str, Row] = {}
    for name in names:
        if name not in groups and name not in rows:
            raise InputError(f"{what} {name!r} is unknown, wanted {', '.join((*rows, *groups))}")
        chosen |= {each: rows[each] for each in groups.get(name, (name,))}
    return tuple(chosen.values())


def choose_workloads(names: Iterable[str]) -> tuple[Workload, ...]:
    """Return the workloads of these names, each of which may stand for a set of them.

    Raises:
        InputError: as `choose`.
    """
    sets = {each: tuple(row.name for row in WORKLOADS if each in row.sets) for each in SETS}
    return choose(WORKLOADS, names, "the workload", sets)


def check_devices(devices: Iterable[str]) -> None:
    """Refuse what is no device to compare.

    Raises:
        InputError: it is neither "cpu" nor "cuda" nor "cuda:N", or a second GPU.
    """
    kinds = []
    for device in devices:
        found = parse_device(device)
        if found.kind == "auto":
            raise InputError(f"--devices names {device!r}, wanted cpu, cuda or cuda:N")
        kinds.append(found.kind)
    if len(set(kinds)) < len(kinds):
        raise InputError("--devices names one kind of device twice; compare one GPU with the CPU at a time")


def named(given: Iterable[str], option: str) -> dict[str, str]:
    """Read the values of an option that takes NAME=PATH.

    Raises:
        InputError: one has no name or no path.
    """
    pairs = {}
    for value in given:
        name, equals, path = value.partition("=")
        if not (name and equals and path):
            raise InputError(f"{option} is {value!r}, wanted NAME=PATH")
        pairs[name] = path
    return pairs


def table_of(
    bundles: Sequence[Path] = (), onnx: Mapping[str, str] | None = None, table: Sequence[Contender] = CONTENDERS
) -> tuple[Contender, ...]:
    """Return the contenders there can be: the table, torchless on every further bundle, and every file in `onnx`.

    Raises:
        InputError: two of them would have one name, or no tokenizer lies near a file.
    """
    rows = list(table)
    for path in bundles[1:]:
        short = path.name or path.resolve().name
        rows += [
            dataclasses.replace(row, name=f"{row.name}@{short}", what=f"{row.what}, of {short}", model=path)
            for row in table
            if row.role == "bundle" and row.family == "torchless"
        ]
    rows += [_on_file(name, file) for name, file in (onnx or {}).items()]
    names = [row.name for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two contenders are called {name}; give bundles and --onnx files names of their own")
    return tuple(rows)


def make_plan(
    bundles: Sequence[str | os.PathLike[str]],
    *,
    peers: str | os.PathLike[str] | None = None,
    contenders: Sequence[str] = (),
    workloads: Sequence[str] = (),
    baseline: str | None = None,
    pythons: Mapping[str, str] | None = None,
    onnx: Mapping[str, str] | None = None,
    texts: str | None = None,
    devices: Sequence[str] = (),
    targets: bool = False,
    settings: Settings | None = None,
    table: Sequence[Contender] = CONTENDERS,
) -> Plan:
    """Decide what is run.

    Args:
        bundles: at least one; the contenders of the table run on the first, torchless's on the others too.
        peers: the directory that holds the other roles' models.
        contenders: names; none: all whose models were given.
        workloads: names; none: the default ones.
        baseline: the contender that the others are compared with; None: the first of those that do the workload.
        pythons: interpreters by contender or family.
        onnx: ONNX files to run with a bare script, by the name of the contender.
        texts: a file of texts, as `torchless run` reads it, for the workload `texts`.
        devices: "cpu", "cuda", "cuda:1", ...: whose contenders take part, on the grid of batches and lengths where
            no workloads are named; none: those of the CPU, and torchless on a GPU.
        targets: judge those of the table's targets that are measured; where no workloads are named, measure what the
            targets speak of and no more.
        settings: how.
        table: the contenders there are.

    Raises:
        InputError: a name or device is unknown, a file of texts cannot be read, or nothing is left to do.
        BundleError: a bundle cannot be opened.
    """
    settings = settings or Settings()
    check_devices(devices)
    if not bundles:
        raise InputError("nothing to measure: give a bundle")
    paths = [Path(bundle) for bundle in bundles]
    rows = tuple(_moved(row, devices) for row in table_of(paths, onnx, table))
    wanted = choose(rows, contenders, "the contender")
    tasks = choose_workloads(workloads)
    choose(rows, [baseline] if baseline else [], "the baseline")
    _check_pythons(pythons or {}, rows)
    judged = _narrowed(wanted or rows, tasks or WORKLOADS) if targets else ()
    narrow = targets and not tasks
    if narrow:
        named_there = {name for target in judged for name in (target.contender, target.against)}
        judged_on = {target.workload for target in judged}
        to_the_limit = LEAST in named_there
        rows = tuple(
            row for row in rows
            if row.name in named_there or (to_the_limit and row.family == "limits" and row.device == "cpu")
        )  # fmt: skip
        tasks = tuple(task for task in WORKLOADS if task.name in judged_on or (to_the_limit and LIMITS in task.sets))
    else:
        rows = wanted or tuple(
            row for row in rows if (row.role == "bundle" or row.model or peers) and _is_on(row, devices)
        )
        tasks = tasks or choose_workloads([GRID if devices else DEFAULT])
    opened = tuple(open_bundle(path) for path in paths)
    inputs = Inputs(opened[0], texts=_read_texts(texts), seed=settings.seed)
    folders = {role: Path(peers) / role if peers else None for role in ROLES} | {"bundle": opened[0].path}
    # A hub id was fetched to somewhere else.
    found = {path: bundle.path for path, bundle in zip(paths, opened, strict=True)}
    placed = tuple(_placed(row, folders, found, pythons or {}) for row in rows)
    skipped = {row.name: reason for row in placed if (reason := _lacks(row))}
    present = tuple(row for row in placed if row.name not in skipped)
    comparisons, left_out = [], {}
    for task in tasks:
        try:
            inputs.arguments(task)
            spoken_of = [target for target in judged if narrow and target.workload == task.name]
            comparisons.append(_comparison(task, present, spoken_of, baseline))
        except InputError as error:
            left_out[task.name] = str(error)
    if not comparisons:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in (skipped | left_out).items())
        raise InputError(f"nothing to measure: {reasons}")
    busy = {name for comparison in comparisons for name in comparison.contenders}
    at_work = tuple(row for row in placed if row.name in busy)
    return Plan(opened, inputs, at_work, tuple(comparisons), skipped, left_out, judged, settings)


def _is_on(row: Contender, devices: Sequence[str]) -> bool:
    if not devices:
        return row.device == "cpu" or row.family == "torchless"
    return row.device in devices


def _moved(row: Contender, devices: Sequence[str]) -> Contender:
    """Return `row` on the GPU that is named, where another one than the first is."""
    named_gpu = next((device for device in devices if parse_device(device).kind == "cuda"), None)
    if named_gpu is None or row.device != "cuda":
        return row
    return dataclasses.replace(row, options={**row.options, "device": named_gpu})


def _narrowed(rows: Sequence[Contender], tasks: Sequence[Workload]) -> tuple[Target, ...]:
    names, workloads = {row.name for row in rows}, {task.name for task in tasks}
    return tuple(t for t in TARGETS if {t.contender, t.against} <= names | {LEAST} and t.workload in workloads)


def _comparison(
    task: Workload, present: Sequence[Contender], judged: Sequence[Target], baseline: str | None
) -> Comparison:
    """Say who does `task`: all who can, or where targets are judged those of whom these speak.

    Raises:
        InputError: nobody does.
    """
    spoken_of = {name for target in judged for name in (target.contender, target.against)}
    able = [row for row in present if task.kind in row.kinds and (not judged or row.name in spoken_of)]
    ready = tuple(row.name for row in able)
    if not ready:
        raise InputError("no contender here does it")
    wanted = [baseline, *(target.against for target in judged)]
    return Comparison(task, ready, next((name for name in wanted if name in ready), ready[0]))


def _read_texts(path: str | None) -> list[str] | None:
    if path is None:
        return None
    with open_records(path) as records:
        return [record.text for record in records]


def _placed(
    row: Contender, folders: Mapping[str, Path | None], found: Mapping[Path, Path], pythons: Mapping[str, str]
) -> Contender:
    python = pythons.get(row.name, pythons.get(row.family))
    model = folders[row.role] if row.model is None else found.get(row.model, row.model)
    return dataclasses.replace(row, model=model, python=python)


def _lacks(row: Contender) -> str | None:
    """Say what `row` lacks on disk; None: nothing."""
    if row.model is None:
        return f"no {row.role} to run on: give --peers, a directory made by `python -m torchless_bench.prepare`"
    wanted = row.model / row.options["file"] if "file" in row.options else row.model
    if not wanted.exists():
        return f"{wanted}: no such file or directory"
    if row.python is None and row.own_python:
        return f"name its interpreter: --python {row.family}=PATH"
    return None


def _check_pythons(pythons: Mapping[str, str], rows: Sequence[Contender]) -> None:
    known = {name for row in rows for name in (row.name, row.family)}
    for name, path in pythons.items():
        if name not in known:
            raise InputError(f"--python names {name!r}, wanted a contender or one of {', '.join(_families(rows))}")
        if not os.access(path, os.X_OK):
            raise InputError(f"--python {name}: {path} is no program; give the path of a Python interpreter")


def _families(rows: Sequence[Contender]) -> list[str]:
    return list(dict.fromkeys(row.family for row in rows))


def _on_file(name: str, file: str) -> Contender:
    path = Path(file).absolute()
    # Beside the tokenizer, or one below it as in the hub's ONNX layout.
    for folder in path.parents[:2]:
        if (folder / "tokenizer.json").exists() and (folder / "config.json").exists():
            bare = next(row for row in CONTENDERS if row.engine == "bare_script.py")
            options = {"file": str(path.relative_to(folder))}
            what = f"a bare ONNX Runtime script on {file}"
            return dataclasses.replace(bare, name=name, what=what, options=options, exact=False, model=folder)
    raise InputError(f"--onnx {name}: no tokenizer.json and config.json beside {file} or in the directory above")
