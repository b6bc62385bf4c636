"""The tables of contenders, workloads and targets: whole, and of one piece with what they name."""

from __future__ import annotations

import sys

import pytest

from torchless.devices import parse_device
from torchless_bench import inputs, worker
from torchless_bench.contenders import CONTENDERS, ENGINES, ROLES
from torchless_bench.limits import LEAST
from torchless_bench.prepare import STEPS
from torchless_bench.targets import TARGETS
from torchless_bench.workloads import DEFAULT, SETS, WORKLOADS

NAMES = {row.name for row in CONTENDERS}
KINDS = {row.kind for row in WORKLOADS}
# The method of an engine that each of the worker's own kinds calls.
NEEDED_BY_THE_WORKER = {"loop": "answer", "first": "answer", "memory": "answer", "size": None, "installed": None}


@pytest.mark.parametrize("table", [CONTENDERS, WORKLOADS])
def test_names_are_unique_and_can_be_listed(table):
    names = [row.name for row in table]
    assert len(set(names)) == len(names)
    assert not [name for name in names if set(name) & set(",=@ ") or name == "all"]


@pytest.mark.parametrize("row", CONTENDERS, ids=lambda row: row.name)
def test_contender_names_what_there_is(row):
    assert row.role in ROLES
    assert row.kinds
    assert set(row.kinds) <= KINDS
    source = (ENGINES / row.engine).read_text(encoding="utf-8")
    methods = {NEEDED_BY_THE_WORKER.get(kind, kind) for kind in row.kinds} - {None}
    for part in ("DISTRIBUTIONS = ", "class Engine", *(f"def {method}(self" for method in methods)):
        assert part in source
    assert row.installs or "installed" not in row.kinds
    parse_device(row.device)


def test_every_engine_is_of_some_contender():
    files = {path.name for path in ENGINES.glob("*.py")} - {"__init__.py"}
    assert files == {row.engine for row in CONTENDERS}


def test_no_contender_is_called_as_a_family():
    # `--python` takes both.
    assert not {row.family for row in CONTENDERS} & NAMES


@pytest.mark.parametrize("row", WORKLOADS, ids=lambda row: row.name)
def test_workload_is_done_by_somebody(row):
    assert row.kind in inputs.KINDS
    assert any(row.kind in contender.kinds for contender in CONTENDERS)
    assert row.unit.measure in worker._MEASURES
    assert min(row.rows, row.threads) >= 1
    assert set(row.sets) <= set(SETS)


def test_every_set_holds_workloads_and_none_is_called_as_one():
    assert {name for row in WORKLOADS for name in row.sets} == set(SETS)
    assert not set(SETS) & {row.name for row in WORKLOADS}


def test_some_workloads_are_measured_unasked():
    assert {row.kind for row in WORKLOADS if DEFAULT in row.sets} == {"forward", "answer"}


def test_the_worker_has_its_own_kinds_and_no_others():
    assert set(NEEDED_BY_THE_WORKER) == set(worker.OWN_KINDS)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_target_names_what_there_is(target):
    assert {target.contender, target.against} <= NAMES | {LEAST}
    assert target.contender != target.against
    [workload] = [row for row in WORKLOADS if row.name == target.workload]
    for row in CONTENDERS:
        if row.name in (target.contender, target.against):
            assert workload.kind in row.kinds
    assert target.at_least > 0 or (target.more or target.at_most) is not None
    assert target.wanted.startswith("at ")


def test_every_role_of_the_peers_can_be_prepared():
    assert {step.role for step in STEPS} == set(ROLES)


def test_no_module_here_hides_one_that_an_engine_imports():
    # The worker is run by its path; where Python is older than PYTHONSAFEPATH, its directory is searched first.
    names = {path.stem for path in ENGINES.parent.glob("*.py")} - {"__init__"}
    assert not names & set(sys.stdlib_module_names)
    assert not [name for row in CONTENDERS for name in row.needs if name.split(".")[0] in names]
