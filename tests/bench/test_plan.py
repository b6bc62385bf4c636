"""`torchless_bench.plan`: from names and paths to who does what."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from torchless.errors import BundleError, InputError
from torchless_bench.contenders import CONTENDERS, ROLES
from torchless_bench.limits import LEAST
from torchless_bench.plan import choose, choose_workloads, make_plan, named, table_of
from torchless_bench.targets import TARGETS
from torchless_bench.workloads import WORKLOADS

LIMITS = {"limits-cpu", "graph-fp32", "graph-int8"}
OF_THE_BUNDLE = (
    "torchless-fp32", "torchless-int8", "torchless-throughput-fp32", "torchless-throughput-int8", "torchless-cuda",
    "bare-fp32", "bare-int8",
)  # fmt: skip


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all roles, which hold the files that are looked for and nothing in them."""
    folder = tmp_path_factory.mktemp("peers")
    for role in ROLES[1:]:
        (folder / role).mkdir()
        (folder / role / "model.onnx").touch()
    return folder


def names(plan, workload: str) -> tuple[str, ...]:
    [found] = [comparison for comparison in plan.comparisons if comparison.workload.name == workload]
    return found.contenders


class TestNames:
    def test_in_the_order_given_and_once(self):
        found = choose(WORKLOADS, ["text8", "1x16", "text8"], "the workload")
        assert [row.name for row in found] == ["text8", "1x16"]

    def test_all(self):
        assert choose(WORKLOADS, ["1x512", "all"], "the workload")[0].name == "1x512"
        assert set(choose(WORKLOADS, ["all"], "the workload")) == set(WORKLOADS)

    def test_unknown(self):
        with pytest.raises(InputError, match=r"the workload '1x17' is unknown, wanted 1x8, 1x16, .*, all$"):
            choose(WORKLOADS, ["1x16", "1x17"], "the workload")

    def test_pairs(self):
        assert named(["a=b", "c=d=e"], "--python") == {"a": "b", "c": "d=e"}

    @pytest.mark.parametrize("value", ["a", "a=", "=b", ""])
    def test_no_pair(self, value):
        with pytest.raises(InputError, match="wanted NAME=PATH"):
            named([value], "--python")


class TestTable:
    def test_further_bundles_bring_torchless_again(self):
        rows = table_of([Path("x/a"), Path("x/b"), Path("x/c")])
        added = {row.name: row.model for row in rows[len(CONTENDERS) :]}
        assert added == {
            f"{row}@{name}": Path("x") / name for name in "bc" for row in OF_THE_BUNDLE if row.startswith("torchless")
        }

    def test_two_of_one_name(self):
        with pytest.raises(InputError, match="two contenders are called torchless-fp32@b"):
            table_of([Path("a"), Path("x/b"), Path("y/b")])

    @pytest.mark.parametrize("below", [".", "onnx"])
    def test_a_file_beside_a_tokenizer_or_one_below(self, below, sample_bundle, tmp_path):
        folder = Path(shutil.copytree(sample_bundle, tmp_path / "hub"))
        (folder / below).mkdir(exist_ok=True)
        (folder / "model.onnx").rename(folder / below / "other.onnx")
        row = table_of([], {"mine": str(folder / below / "other.onnx")})[-1]
        assert (row.name, row.model, row.engine) == ("mine", folder, "bare_script.py")
        assert (row.model / row.options["file"]).exists()

    def test_a_file_without_a_tokenizer(self, tmp_path):
        with pytest.raises(InputError, match="--onnx mine: no tokenizer"):
            table_of([], {"mine": str(tmp_path / "a" / "b" / "model.onnx")})


class TestPlan:
    def test_plain(self, sample_bundle):
        plan = make_plan([sample_bundle])
        assert [comparison.workload for comparison in plan.comparisons] == list(choose_workloads(["default"]))
        for comparison in plan.comparisons:
            assert comparison.contenders == OF_THE_BUNDLE
            assert comparison.baseline == "torchless-fp32"
        assert {row.model for row in plan.contenders} == {sample_bundle}
        assert not plan.skipped
        assert not plan.left_out
        assert not plan.targets

    def test_peers_join_where_their_models_are(self, sample_bundle, peers):
        plan = make_plan([sample_bundle], peers=peers, workloads=["1x16"])
        expected = {row.name for row in CONTENDERS if "forward" in row.kinds and row.device == "cpu"}
        expected = expected - {"transformers5-fp32"} | {"torchless-cuda"}
        assert set(names(plan, "1x16")) == expected
        models = {row.name: row.model for row in plan.contenders}
        assert models["optimum-int8"] == peers / "optimum-int8"
        assert models["torchless-int8"] == sample_bundle
        assert plan.skipped["transformers5-fp32"] == "name its interpreter: --python transformers5=PATH"

    def test_peer_without_its_model(self, sample_bundle, tmp_path):
        plan = make_plan([sample_bundle], contenders=["torchless-fp32", "optimum-fp32"], workloads=["1x16"])
        assert names(plan, "1x16") == ("torchless-fp32",)
        assert "give --peers" in plan.skipped["optimum-fp32"]
        plan = make_plan([sample_bundle], peers=tmp_path, contenders=["bare-fp32", "bare-optimum-fp32"])
        assert plan.skipped["bare-optimum-fp32"] == f"{tmp_path / 'optimum' / 'model.onnx'}: no such file or directory"

    def test_variant_that_the_bundle_lacks(self, bundle_copy):
        (bundle_copy / "model_int8.onnx").unlink()
        assert "bare-int8" in make_plan([bundle_copy]).skipped

    def test_interpreter_by_name_before_family(self, sample_bundle, peers, tmp_path):
        other = tmp_path / "python"
        other.symlink_to(sys.executable)
        pythons = {"torchless": sys.executable, "torchless-int8": str(other), "transformers5": sys.executable}
        plan = make_plan([sample_bundle], peers=peers, pythons=pythons, workloads=["1x16"])
        found = {row.name: row.python for row in plan.contenders}
        assert found["torchless-fp32"] == sys.executable
        assert found["torchless-int8"] == str(other)
        assert found["bare-fp32"] is None
        assert "transformers5-fp32" in names(plan, "1x16")

    def test_each_does_what_it_can(self, sample_bundle, peers):
        given = ["torchless-export", "optimum-export", "torchless-fp32", "limits-cpu", "graph-int8"]
        tasks = ["export", "installed", "1x16", "limits"]
        plan = make_plan([sample_bundle], peers=peers, workloads=tasks, contenders=given)
        assert names(plan, "export") == ("torchless-export", "optimum-export")
        assert names(plan, "1x16") == ("torchless-fp32",)
        assert set(names(plan, "installed")) == {"torchless-fp32", "torchless-export", "optimum-export"}
        assert names(plan, "rate-int8") == ("limits-cpu",)
        assert names(plan, "arithmetic") == ("graph-int8",)

    def test_a_set_of_workloads(self, sample_bundle):
        plan = make_plan([sample_bundle], workloads=["latency", "1x16"], contenders=["torchless-fp32"])
        found = [comparison.workload.name for comparison in plan.comparisons]
        assert found == ["text8", "text16", "text32", "text128", "text512", "1x16"]

    def test_baseline(self, sample_bundle):
        plan = make_plan([sample_bundle], baseline="bare-int8")
        assert {comparison.baseline for comparison in plan.comparisons} == {"bare-int8"}
        chosen = make_plan([sample_bundle], contenders=["torchless-int8", "bare-fp32"], baseline="bare-int8")
        assert {comparison.baseline for comparison in chosen.comparisons} == {"torchless-int8"}

    def test_further_bundles_run_where_they_were_found(self, sample_bundle, bundle_copy, monkeypatch):
        monkeypatch.chdir(bundle_copy.parent)
        plan = make_plan([sample_bundle, bundle_copy.name], contenders=["torchless-fp32", "torchless-fp32@copy"])
        assert [row.model for row in plan.contenders] == [sample_bundle, Path(bundle_copy.name)]
        assert len(plan.bundles) == 2
        monkeypatch.chdir(bundle_copy)
        assert make_plan([sample_bundle, "."], contenders=["torchless-int8@copy"]).contenders[0].model == Path()

    def test_too_long_for_the_model_is_left_out(self, bundle_copy):
        manifest = bundle_copy / "torchless.json"
        text = manifest.read_text(encoding="utf-8").replace('"max_length": 512', '"max_length": 64')
        manifest.write_text(text, encoding="utf-8")
        plan = make_plan([bundle_copy], workloads=["1x16", "1x128"])
        assert [comparison.workload.name for comparison in plan.comparisons] == ["1x16"]
        assert plan.left_out == {"1x128": "128 tokens, the model takes at most 64"}

    def test_texts_of_a_file(self, sample_bundle, tmp_path):
        path = tmp_path / "texts.txt"
        path.write_text("a film\na book\n", encoding="utf-8")
        assert make_plan([sample_bundle], texts=str(path)).inputs.texts == ["a film", "a book"]


class TestTargets:
    def test_measures_what_they_speak_of_and_no_more(self, sample_bundle, peers):
        plan = make_plan([sample_bundle], peers=peers, targets=True, pythons={"optimum": sys.executable})
        assert plan.targets == TARGETS
        pairs = {(c.workload.name, name) for c in plan.comparisons for name in c.contenders}
        spoken_of = {(t.workload, name) for t in TARGETS for name in (t.contender, t.against)}
        limits = {(c.workload.name, name) for c in plan.comparisons for name in c.contenders if name in LIMITS}
        assert pairs - limits == {(workload, name) for workload, name in spoken_of if name != LEAST}
        assert {name for _, name in limits} == LIMITS
        for comparison in plan.comparisons:
            against = {t.against for t in TARGETS if t.workload == comparison.workload.name}
            assert comparison.baseline in against | LIMITS

    def test_a_baseline_that_is_named_comes_first(self, sample_bundle, peers):
        plan = make_plan([sample_bundle], peers=peers, targets=True, baseline="torchless-fp32")
        found = {comparison.workload.name: comparison.baseline for comparison in plan.comparisons}
        assert (found["1x16"], found["1x128"]) == ("torchless-fp32", "bare-optimum-int8")

    def test_beside_workloads_that_are_named(self, sample_bundle, peers):
        plan = make_plan([sample_bundle], peers=peers, targets=True, workloads=["32x32"])
        assert [target.workload for target in plan.targets] == ["32x32", "32x32"]
        assert "openvino-fp32" in names(plan, "32x32")
        assert plan.comparisons[0].baseline == "torchless-fp32"

    def test_narrowed(self, sample_bundle, peers):
        chosen = ["torchless-fp32", "torchless-throughput-fp32", "transformers-fp32"]
        plan = make_plan([sample_bundle], peers=peers, targets=True, contenders=chosen)
        assert {target.contender for target in plan.targets} == set(chosen[:2])
        assert {target.workload for target in plan.targets} == {"1x16", "text16", "texts"}
        assert {name for c in plan.comparisons for name in c.contenders} == set(chosen)


class TestDevices:
    def test_those_named_meet_on_the_grid(self, sample_bundle, peers):
        plan = make_plan([sample_bundle], peers=peers, devices=["cpu", "cuda"])
        assert [c.workload for c in plan.comparisons] == list(choose_workloads(["grid"]))
        found = set(names(plan, "32x128"))
        assert {"torchless-int8", "torchless-cuda", "transformers-cuda-fp16", "optimum-fp32"} <= found

    def test_one_alone(self, sample_bundle):
        assert names(make_plan([sample_bundle], devices=["cuda"]), "1x8") == ("torchless-cuda",)
        assert "torchless-cuda" not in names(make_plan([sample_bundle], devices=["cpu"]), "1x8")

    def test_another_gpu(self, sample_bundle):
        plan = make_plan([sample_bundle], devices=["cpu", "cuda:1"], workloads=["1x16"])
        assert {row.name: row.device for row in plan.contenders}["torchless-cuda"] == "cuda:1"
        assert {row.name: row.device for row in plan.contenders}["torchless-fp32"] == "cpu"

    @pytest.mark.parametrize("devices", [["auto"], ["tpu"], ["cuda:0", "cuda:1"], ["cpu", "cpu"]])
    def test_refused(self, sample_bundle, devices):
        with pytest.raises(InputError, match=r"^(device is|--devices names) "):
            make_plan([sample_bundle], devices=devices)


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ({"contenders": ["tensorflow"]}, "the contender 'tensorflow' is unknown, wanted torchless-fp32"),
            ({"workloads": ["1x17"]}, "the workload '1x17' is unknown"),
            ({"baseline": "nobody"}, "the baseline 'nobody' is unknown"),
            ({"pythons": {"ruby": sys.executable}}, "--python names 'ruby', wanted a contender or one of torchless"),
            ({"pythons": {"optimum": "/no/such/python"}}, "--python optimum: /no/such/python is no program"),
            ({"contenders": ["torchless-fp32"], "workloads": ["export"]}, "nothing to measure: export: no contender"),
            ({"contenders": ["optimum-fp32"]}, "nothing to measure: optimum-fp32: no optimum to run on"),
            ({"texts": "no-such-file.txt"}, "no-such-file.txt: cannot be opened"),
        ],
    )
    def test_arguments(self, sample_bundle, arguments, says):
        with pytest.raises(InputError, match=says):
            make_plan([sample_bundle], **arguments)

    def test_no_bundle(self, tmp_path):
        with pytest.raises(InputError, match="give a bundle"):
            make_plan([])
        with pytest.raises(BundleError, match="no such directory"):
            make_plan([tmp_path / "nothing"])
