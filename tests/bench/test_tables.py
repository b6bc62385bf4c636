"""The tables of contenders, workloads and targets: whole, and of one piece with what they name."""

from __future__ import annotations

import sys

import pytest

from torchless_bench import inputs
from torchless_bench.contenders import CONTENDERS, ENGINES, ROLES
from torchless_bench.prepare import STEPS
from torchless_bench.targets import TARGETS
from torchless_bench.workloads import WORKLOADS

NAMES = {row.name for row in CONTENDERS}
KINDS = {row.kind for row in WORKLOADS}


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
    assert set(row.own_python) <= set(row.kinds)
    source = (ENGINES / row.engine).read_text(encoding="utf-8")
    for part in ("DISTRIBUTIONS = ", "class Engine", *(f"def {kind}(self" for kind in row.kinds)):
        assert part in source


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
    assert row.unit.measure in ("time", "value")
    assert row.rows >= 1


def test_some_workloads_are_measured_unasked():
    assert {row.kind for row in WORKLOADS if row.default} == {"forward", "answer"}


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_target_names_what_there_is(target):
    assert {target.contender, target.against} <= NAMES
    assert target.contender != target.against
    [workload] = [row for row in WORKLOADS if row.name == target.workload]
    for row in CONTENDERS:
        if row.name in (target.contender, target.against):
            assert workload.kind in row.kinds
    assert target.at_least > 0


def test_every_role_of_the_peers_can_be_prepared():
    assert {step.role for step in STEPS} == set(ROLES)


def test_no_module_here_hides_one_that_an_engine_imports():
    # The worker is run by its path; where Python is older than PYTHONSAFEPATH, its directory is searched first.
    names = {path.stem for path in ENGINES.parent.glob("*.py")} - {"__init__"}
    assert not names & set(sys.stdlib_module_names)
    assert not [name for row in CONTENDERS for name in row.needs if name.split(".")[0] in names]
