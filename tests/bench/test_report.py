"""`torchless_bench.report` and `table`: what a run leaves behind, and how it is shown."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from torchless.errors import InputError
from torchless_bench.plan import Settings, make_plan
from torchless_bench.report import document, read, to_json
from torchless_bench.rounds import Measured, Outcome, Standing
from torchless_bench.table import text_table
from torchless_bench.targets import Target

LOGITS = [[0.5, -0.5]]
SAMPLES = {"A": ((0.002, 0.002), (0.004,)), "B": ((0.001,), (0.004, 0.004))}


@pytest.fixture
def plan_of(sample_bundle: Path, make_contender):
    """Return a function that plans the contenders A and B, which are exact, for these workloads."""

    def make(*workloads: str, **fields):
        table = [make_contender(name, exact=True, kinds=("forward", "answer", "installed")) for name in "AB"]
        settings = Settings(threads=2, rounds=2)
        plan = make_plan([sample_bundle], workloads=workloads or ("1x16",), table=table, settings=settings)
        return dataclasses.replace(plan, **fields)

    return make


def outcome_of(plan, samples=SAMPLES, answers=None, others=0.01, **standings) -> Outcome:
    measured = {
        (comparison.workload.name, name): Measured(rounds, (answers or {}).get(name, LOGITS), others)
        for comparison in plan.comparisons
        for name, rounds in samples.items()
    }
    ready = {name: Standing(versions={"python": "3.11.7"}, load_seconds=0.5, idle=0.01) for name in "AB"}
    return Outcome(ready | standings, measured)


def test_keys_that_readers_rely_on(plan_of):
    plan = plan_of("1x16", targets=(Target("A", "1x16", "B", 2.0),), left_out={"1x512": "too long"})
    report = document(plan, outcome_of(plan), ["torchless", "bench", "x"])
    assert list(report) == [
        "format", "torchless", "created", "command", "source", "machine", "settings", "bundles", "contenders",
        "workloads", "left_out", "limits", "devices", "targets", "warnings",
    ]  # fmt: skip
    assert report["format"] == "1.1"
    assert report["command"] == ["torchless", "bench", "x"]
    assert set(report["machine"]) == {
        "cpu", "architecture", "features", "usable_cpus", "cpus", "memory_bytes", "system", "load_average",
    }  # fmt: skip
    assert set(report["settings"]) == {"threads", "rounds", "seconds", "warmup", "calls", "seed", "time_limit"}
    assert [set(row) for row in report["bundles"]] == [{"path", "manifest_sha256"}]
    [first, _] = report["contenders"]
    assert set(first) == {
        "name", "what", "family", "device", "model", "options", "python", "status", "reason", "versions",
        "load_seconds", "idle",
    }  # fmt: skip
    [workload] = report["workloads"]
    assert set(workload) == {
        "name", "what", "kind", "unit", "more_is_better", "rows", "tokens", "threads", "work", "lengths",
        "baseline", "results",
    }  # fmt: skip
    for result in workload["results"]:
        assert set(result) == {"contender", "seconds", "spread", "ratio", "others", "samples"}
        assert set(result["spread"]) == {"count", "p5", "p25", "p50", "p75", "p90", "p95", "p99"}
        assert set(result["ratio"]) == {"median", "low", "high", "rounds"}
    assert report["left_out"] == [{"workload": "1x512", "contender": None, "reason": "too long"}]
    assert [set(row) for row in report["targets"]] == [
        {
            "contender",
            "workload",
            "against",
            "at_least",
            "at_most",
            "more",
            "wanted",
            "verdict",
            "reason",
            "ratio",
            "low",
            "high",
            "value",
        }
    ]


def test_figures(plan_of):
    plan = plan_of()
    [workload] = document(plan, outcome_of(plan), [])["workloads"]
    assert (workload["baseline"], workload["unit"], workload["work"]) == ("A", "ms", 1)
    assert workload["lengths"] == [16]
    a, b = workload["results"]
    assert (a["contender"], a["samples"]) == ("A", [[0.002, 0.002], [0.004]])
    assert (a["spread"]["p50"], a["spread"]["count"], a["ratio"]["median"]) == (2.0, 3, 1.0)
    assert b["ratio"]["rounds"] == [2.0, 1.0]
    assert b["ratio"]["median"] == 1.5


def test_rates_count_texts_and_more_is_better(plan_of):
    plan = plan_of("texts")
    [workload] = document(plan, outcome_of(plan, {"A": ((0.5, 1.0),)}), [])["workloads"]
    assert (workload["unit"], workload["more_is_better"], workload["work"]) == ("texts/s", True, 256)
    assert len(workload["lengths"]) == 256
    assert workload["results"][0]["spread"]["p50"] == (512 + 256) / 2


def test_bytes_are_shown_as_megabytes(plan_of):
    plan = plan_of("installed")
    report = document(plan, outcome_of(plan, {"A": ((2e8,),), "B": ((5e7,),)}), [])
    assert report["workloads"][0]["results"][1]["spread"]["p50"] == 50.0
    assert "times smaller than A" in text_table(report)


def test_the_first_of_those_left_is_the_baseline_where_it_failed(plan_of):
    plan = plan_of()
    failed = outcome_of(plan, {"B": SAMPLES["B"]}, A=Standing("failed", "1x16: it died"))
    report = document(plan, failed, [])
    assert report["workloads"][0]["baseline"] == "B"
    assert "failed: A: 1x16: it died" in text_table(report)


def test_nobody_left(plan_of):
    plan = plan_of()
    report = document(plan, Outcome({name: Standing("failed", "dead") for name in "AB"}, {}), [])
    assert report["workloads"][0]["results"] == []
    assert "1x16" not in text_table(report)


def test_skipped_contenders_are_in_it(plan_of):
    plan = plan_of(skipped={"peer": "no such peer"})
    report = document(plan, outcome_of(plan, peer=Standing("skipped", "no such peer")), [])
    assert report["contenders"][-1]["name"] == "peer"
    assert "skipped: peer: no such peer" in text_table(report)


class TestWarnings:
    def test_none(self, plan_of):
        plan = plan_of()
        assert document(plan, outcome_of(plan), [])["warnings"] == []

    @pytest.mark.parametrize("other", [[[0.5, -0.4]], [[0.5, float("nan")]], [[0.5, -0.5, 0.1]], [[0.5, -0.5]] * 2])
    def test_another_model(self, plan_of, other):
        plan = plan_of()
        [line] = document(plan, outcome_of(plan, answers={"B": other}), [])["warnings"]
        assert "1x16: the logits of B differ from those of A by" in line

    def test_rounding_is_no_other_model(self, plan_of):
        plan = plan_of()
        assert document(plan, outcome_of(plan, answers={"B": [[0.50001, -0.5]]}), [])["warnings"] == []

    def test_int8_may_differ(self, plan_of):
        plan = plan_of()
        loose = tuple(dataclasses.replace(row, exact=row.name == "A") for row in plan.contenders)
        plan = dataclasses.replace(plan, contenders=loose)
        assert document(plan, outcome_of(plan, answers={"B": [[9.0, 9.0]]}), [])["warnings"] == []

    def test_spinning(self, plan_of):
        plan = plan_of()
        [line] = document(plan, outcome_of(plan, B=Standing(idle=0.8)), [])["warnings"]
        assert "B: its threads take 80% of a CPU while it has nothing to do" in line

    def test_busy_machine(self, plan_of):
        plan = plan_of()
        [line] = document(plan, outcome_of(plan, others=0.5), [])["warnings"]
        assert "other processes took 50% of the machine" in line
        assert document(plan, outcome_of(plan, others=None), [])["warnings"] == []
        sizes = plan_of("installed")
        assert document(sizes, outcome_of(sizes, others=0.5), [])["warnings"] == []


class TestTargets:
    def verdict(self, plan, outcome):
        [found] = document(plan, outcome, [])["targets"]
        return found["verdict"], found["reason"]

    def test_met(self, plan_of):
        plan = plan_of(targets=(Target("B", "1x16", "A", 1.5),))
        assert self.verdict(plan, outcome_of(plan)) == ("met", None)
        table = text_table(document(plan, outcome_of(plan), []))
        assert "1x16: B against A  at least 1.5x     1.50x  1.00 to 2.00  met" in table

    def test_not_met(self, plan_of):
        plan = plan_of(targets=(Target("B", "1x16", "A", 1.6),))
        assert self.verdict(plan, outcome_of(plan)) == ("not met", None)

    def test_on_a_busy_machine(self, plan_of):
        plan = plan_of(targets=(Target("B", "1x16", "A", 1.5),))
        assert self.verdict(plan, outcome_of(plan, others=0.3)) == (
            "met", "doubtful, other processes took 30% of the machine",
        )  # fmt: skip
        sizes = plan_of("installed", targets=(Target("B", "installed", "A", 1.5),))
        assert self.verdict(sizes, outcome_of(sizes, others=0.3)) == ("met", None)

    def test_a_contender_failed(self, plan_of):
        plan = plan_of(targets=(Target("B", "1x16", "A", 1.5),))
        outcome = outcome_of(plan, {"B": SAMPLES["B"]}, A=Standing("failed", "it died"))
        assert self.verdict(plan, outcome) == ("not measured", "A: it died")
        assert "not measured: A: it died" in text_table(document(plan, outcome, []))

    def test_the_workload_was_left_out(self, plan_of):
        plan = plan_of(targets=(Target("B", "1x512", "A", 1.5),), left_out={"1x512": "too long"})
        assert self.verdict(plan, outcome_of(plan)) == ("not measured", "too long")

    def test_a_contender_could_not(self, plan_of):
        plan = plan_of(targets=(Target("B", "1x16", "A", 1.5),))
        outcome = outcome_of(plan, {"B": SAMPLES["B"]})
        outcome.unable["1x16", "A"] = "no such products"
        assert self.verdict(plan, outcome) == ("not measured", "A: no such products")
        assert "left out: 1x16 of A: no such products" in text_table(document(plan, outcome, []))


def test_json_is_whole_and_readable(plan_of):
    plan = plan_of()
    report = document(plan, outcome_of(plan), ["it's [\n 1,\n 2\n]"])
    text = to_json(report)
    assert json.loads(text) == report
    assert '"samples": [\n      [0.002, 0.002],\n      [0.004]\n     ]' in text


class TestRead:
    def test_what_was_written(self, plan_of, tmp_path):
        plan = plan_of()
        report = document(plan, outcome_of(plan), [])
        (tmp_path / "bench.json").write_text(to_json(report), encoding="utf-8")
        assert read(tmp_path / "bench.json") == report

    def test_with_prices_of_today(self, recorded, tmp_path):
        (tmp_path / "bench.json").write_text(to_json(recorded), encoding="utf-8")
        found = read(tmp_path / "bench.json", {"cpu": 0.2, "cuda": 2.5})
        for then, now in zip(recorded["devices"]["grid"], found["devices"]["grid"], strict=True):
            assert now["devices"]["cpu"]["cost"] == pytest.approx(2 * then["devices"]["cpu"]["cost"])
            assert now["devices"]["cuda"]["cost"] == then["devices"]["cuda"]["cost"]
        assert {key: found[key] for key in found if key != "devices"} == {
            key: recorded[key] for key in recorded if key != "devices"
        }

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("[]", "format is None, wanted 1.1"),
            ('{"format": "2.0"}', "format is '2.0', wanted 1.1"),
            ('{"format": 1.1}', "format is 1.1, wanted 1.1"),
            ("{", "bench.json: "),
        ],
    )
    def test_what_is_none(self, tmp_path, text, says):
        (tmp_path / "bench.json").write_text(text)
        with pytest.raises(InputError, match=says):
            read(tmp_path / "bench.json")


class TestShares:
    """The target of the least time, on the recorded document."""

    def test_judged(self, recorded):
        [target] = [row for row in recorded["targets"] if row["against"] == "the least time"]
        [row] = [
            row for row in recorded["limits"]["reached"]
            if (row["workload"], row["contender"]) == (target["workload"], target["contender"])
        ]  # fmt: skip
        assert target["ratio"] == pytest.approx(row["share"], rel=0.2)  # the median of rounds, and of all samples
        assert (target["verdict"] == "met") == (target["ratio"] >= target["at_least"])

    def test_not_without_limits(self, plan_of):
        plan = plan_of(targets=(Target("A", "1x16", "the least time", 0.6),))
        [target] = document(plan, outcome_of(plan), [])["targets"]
        assert target["verdict"] == "not measured"
        assert "--workloads limits" in target["reason"]
