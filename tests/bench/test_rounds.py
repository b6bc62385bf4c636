"""`torchless_bench.rounds`: turns, and what becomes of contenders that fail."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchless_bench.contenders import Contender
from torchless_bench.plan import Plan, Settings, make_plan
from torchless_bench.rounds import Measured, run, turns

FAST = Settings(threads=1, rounds=2, seconds=0.01, warmup=0.0, time_limit=60)


@given(st.lists(st.text(), unique=True, max_size=6), st.integers(0, 20), st.text())
def test_every_name_once_in_each_round(names, rounds, seed):
    order = turns(names, rounds, seed)
    assert len(order) == rounds
    assert all(sorted(one) == sorted(names) for one in order)
    assert order == turns(names, rounds, seed)


def test_the_order_changes_from_round_to_round_and_nobody_is_always_first():
    order = turns("ABCD", 200, "0 1x16")
    assert order != turns("ABCD", 200, "1 1x16")
    for place in range(4):
        counts = Counter(one[place] for one in order)
        assert all(30 <= counts[name] <= 70 for name in "ABCD")


@pytest.fixture
def plan_of(sample_bundle: Path):
    """Return a function that makes a plan of these contenders for the workload 1x16, with two rounds of one thread."""

    def make(*table: Contender, workloads: tuple[str, ...] = ("1x16",), **settings: object) -> Plan:
        return make_plan(
            [sample_bundle], workloads=workloads, table=table, settings=dataclasses.replace(FAST, **settings)
        )

    return make


def test_two_variants_of_the_sample(sample_bundle):
    plan = make_plan(
        [sample_bundle], contenders=["torchless-fp32", "torchless-int8"], workloads=["1x16", "text8", "texts"],
        settings=FAST,
    )  # fmt: skip
    told: list[str] = []
    outcome = run(plan, told.append)
    assert {name: standing.status for name, standing in outcome.standings.items()} == {
        "torchless-fp32": "ready",
        "torchless-int8": "ready",
    }
    assert set(outcome.measured) == {
        (workload, name) for workload in ("1x16", "text8", "texts") for name in ("torchless-fp32", "torchless-int8")
    }
    for measured in outcome.measured.values():
        assert len(measured.rounds) == 2
        assert all(samples and min(samples) > 0 for samples in measured.rounds)
    logits = outcome.measured["1x16", "torchless-fp32"].answer
    assert len(logits) == 1
    assert len(logits[0]) == 2
    assert outcome.measured["text8", "torchless-int8"].answer[0] in ("NEGATIVE", "POSITIVE")
    assert len(outcome.measured["texts", "torchless-int8"].answer) == 32
    assert "onnxruntime" in outcome.standings["torchless-fp32"].versions
    assert told == [
        "torchless-fp32: loading ...", "torchless-int8: loading ...",
        *(f"{name}: 2 rounds of 2 contenders ..." for name in ("1x16", "text8", "texts")),
    ]  # fmt: skip


def test_all_are_alive_and_one_works_at_a_time(plan_of, make_contender, tmp_path):
    log = tmp_path / "log"
    body = f"""
        begin = time.monotonic()
        time.sleep(0.01)
        with open({str(log)!r}, "a") as file:
            file.write(f"[{{os.getpid()}}, {{begin}}, {{time.monotonic()}}]\\n")
        return [[0.0, 1.0]]
    """
    table = [make_contender(name, body) for name in "ABC"]
    run(plan_of(*table, rounds=4, seconds=0.03))
    calls = sorted((json.loads(line) for line in log.read_text().splitlines()), key=lambda call: call[1])
    assert len({pid for pid, _, _ in calls}) == 3  # the same three from the first call to the last
    assert len({pid for pid, _, _ in calls[-9:]}) == 3
    for (_, _, end), (_, begin, _) in itertools.pairwise(calls):
        assert begin >= end


def test_one_that_dies_costs_itself_alone(plan_of, make_contender):
    dying = make_contender("dying", "if self.calls > 2: os._exit(9)\nreturn [[1.0, 2.0]]")
    told: list[str] = []
    outcome = run(plan_of(make_contender("first"), dying, make_contender("last"), rounds=3, seconds=0.001), told.append)
    assert outcome.standings["dying"].status == "failed"
    assert outcome.standings["dying"].reason == "1x16: its process exited with status 9"
    assert "dying: failed: 1x16: its process exited with status 9" in told
    assert set(outcome.measured) == {("1x16", "first"), ("1x16", "last")}
    assert all(len(measured.rounds) == 3 for measured in outcome.measured.values())


def test_one_that_hangs_costs_the_time_limit(plan_of, make_contender):
    outcome = run(plan_of(make_contender("hanging", "time.sleep(1000)"), make_contender("other"), time_limit=3))
    assert outcome.standings["hanging"].reason == "1x16: no answer to 'prepare' within 3 s; see --time-limit"
    assert outcome.standings["other"].status == "ready"


def test_one_that_cannot_load(plan_of, make_contender):
    outcome = run(plan_of(make_contender("broken", load="raise OSError('no weights')"), make_contender("other")))
    assert outcome.standings["broken"].status == "failed"
    assert outcome.standings["broken"].reason == "OSError: no weights"
    assert set(outcome.measured) == {("1x16", "other")}


def test_one_that_hangs_while_it_loads_is_ended_before_the_others_work(plan_of, make_contender, tmp_path):
    alive = tmp_path / "alive"
    writing = f"while True: open({str(alive)!r}, 'a').write(f'{{time.monotonic()}}\\n'); time.sleep(0.01)"
    other = make_contender("other", "return [[time.monotonic(), 0.0]]")
    outcome = run(plan_of(make_contender("hanging", load=writing), other, time_limit=2))
    assert outcome.standings["hanging"].reason == "no answer to 'load' within 2 s; see --time-limit"
    assert float(alive.read_text().splitlines()[-1]) < outcome.measured["1x16", "other"].answer[0][0]


def test_one_whose_interpreter_is_none(plan_of, make_contender, tmp_path):
    none = make_contender("none", python=str(tmp_path / "python"))
    plan = plan_of(make_contender("other"))
    outcome = run(dataclasses.replace(plan, contenders=(none, *plan.contenders)))
    assert "cannot be started" in outcome.standings["none"].reason
    assert set(outcome.measured) == {("1x16", "other")}


def test_one_whose_library_is_missing_is_skipped_by_name(plan_of, make_contender):
    outcome = run(plan_of(make_contender("peer", needs=("no_such_peer",)), make_contender("other")))
    assert outcome.standings["peer"].status == "skipped"
    assert outcome.standings["peer"].reason.startswith("no_such_peer not installed in ")
    assert set(outcome.measured) == {("1x16", "other")}


def test_one_that_the_plan_skips(plan_of, make_contender):
    plan = dataclasses.replace(plan_of(make_contender("A")), skipped={"peer": "its model is missing"})
    outcome = run(plan)
    assert (outcome.standings["peer"].status, outcome.standings["peer"].reason) == ("skipped", "its model is missing")
    assert outcome.standings["A"].status == "ready"


def test_one_that_never_rests_is_noticed(plan_of, make_contender):
    spinning = """
        def spin():
            while True:
                pass
        threading.Thread(target=spin, daemon=True).start()
    """
    outcome = run(plan_of(make_contender("spinning", load=spinning), make_contender("quiet"), rounds=1))
    assert outcome.standings["spinning"].idle > 0.05 > outcome.standings["quiet"].idle


def test_what_does_not_vary_has_one_round(plan_of, make_contender):
    plan = plan_of(make_contender("A", installs=("numpy",)), workloads=("installed",), rounds=5)
    [[size]] = run(plan).measured["installed", "A"].rounds
    assert size > 1e6


def test_what_has_no_samples_has_an_answer(plan_of, make_contender):
    plan = plan_of(make_contender("A"), workloads=("1x16",), rounds=5)
    [comparison] = plan.comparisons
    unrepeated = dataclasses.replace(comparison.workload, rounds=0)
    plan = dataclasses.replace(plan, comparisons=(dataclasses.replace(comparison, workload=unrepeated),))
    assert run(plan).measured["1x16", "A"] == Measured((), [[1.0, 2.0]], None)


def test_one_who_cannot_do_one_thing_does_the_rest(plan_of, make_contender):
    cannot = "if len(ids[0]) == 16: raise NotImplementedError('not of 16')\nreturn [[1.0]]"
    # One call to prepare, two in the first turn: it fails in the second.
    later = "if len(ids[0]) == 16 and self.calls > 3: raise NotImplementedError('no more')\nreturn [[1.0]]"
    plan = plan_of(make_contender("A", cannot), make_contender("B"), make_contender("C", later),
                   workloads=("1x16", "1x8"), seconds=1.0, calls=1)  # fmt: skip
    outcome = run(plan)
    assert set(outcome.measured) == {("1x16", "B"), ("1x8", "A"), ("1x8", "B"), ("1x8", "C")}
    assert outcome.unable == {("1x16", "A"): "not of 16", ("1x16", "C"): "no more"}
    assert {standing.status for standing in outcome.standings.values()} == {"ready"}
