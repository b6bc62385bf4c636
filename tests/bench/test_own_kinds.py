"""What the worker measures by itself: fresh processes and their memory, closed loops, sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torchless_bench.processes import WorkerProcess

TURN = {"op": "turn", "seconds": 0.2, "calls": 1000, "measure": "value"}


class Asked:
    """A worker with one engine."""

    def __init__(self, worker: WorkerProcess, engine: Path, **options: Any) -> None:
        self.worker = worker
        request = {"op": "load", "engine": str(engine), "needs": (), "options": options, "threads": 2}
        assert "error" not in worker.ask({**request, "installs": ["numpy"]}, 60)

    def prepare(self, kind: str, **arguments: Any) -> dict[str, Any]:
        return self.worker.ask({"op": "prepare", "kind": kind, "arguments": arguments, "warmup": 0.0}, 60)

    def turn(self, measure: str, **changes: Any) -> dict[str, Any]:
        return self.worker.ask({**TURN, "measure": measure, **changes}, 60)


@pytest.fixture
def asked(make_engine: Callable[..., Path]):
    """Return a function that loads an engine: `asked("return [[1.0]]", load="...", x=1)`."""
    with WorkerProcess(None, 2) as worker:
        yield lambda forward="pass", load="pass", **options: Asked(worker, make_engine(forward, load), **options)


class TestFreshProcess:
    def test_its_time_has_all_of_it(self, asked):
        contender = asked("time.sleep(0.2)", "time.sleep(0.3)")
        contender.prepare("first", texts=["a"], batch_size=1)
        [seconds] = contender.turn("value")["samples"]
        assert 0.5 < seconds < 30

    def test_is_another_one_each_time(self, asked, tmp_path):
        contender = asked("open(self.options['log'], 'a').write(f'{os.getpid()} ')", log=str(tmp_path / "log"))
        contender.prepare("first", texts=["a"], batch_size=1)
        contender.turn("value")
        pids = (tmp_path / "log").read_text().split()
        assert len(set(pids)) == len(pids) == 2
        assert str(contender.worker.pid) not in pids

    def test_memory_is_its_own(self, asked):
        # Address space that is not touched is no memory.
        small = asked("pass", "import mmap; self.held = mmap.mmap(-1, 500_000_000)")
        small.prepare("memory", texts=["a"], batch_size=1)
        [without] = small.turn("value")["samples"]
        assert 4e6 < without < 60e6

    def test_memory_grows_with_what_it_holds(self, asked):
        large = asked("self.held = b'x' * 100_000_000")
        large.prepare("memory", texts=["a"], batch_size=1)
        [found] = large.turn("value")["samples"]
        assert 100e6 < found < 170e6

    def test_memory_is_asked_for_once(self, asked, tmp_path):
        contender = asked("open(self.options['log'], 'a').write('x')", log=str(tmp_path / "log"))
        contender.prepare("memory", texts=["a"], batch_size=1)
        contender.turn("value")
        assert (tmp_path / "log").read_text() == "x"

    def test_what_it_prints_is_no_answer(self, asked):
        contender = asked("print('chatter'); sys.stdout.flush()", "print('more')")
        contender.prepare("first", texts=["a"], batch_size=1)
        assert len(contender.turn("value")["samples"]) == 1

    def test_one_that_fails_costs_this_workload(self, asked):
        contender = asked("if os.path.basename(sys.argv[0]) == 'fresh.py': raise ValueError('not when fresh')")
        answer = contender.prepare("first", texts=["a"], batch_size=1)
        assert answer == {"unable": "a fresh process failed: ValueError: not when fresh"}
        assert "result" in contender.prepare("answer", texts=["a"], batch_size=1)


class TestLoop:
    def test_as_many_threads_as_asked_for_call_at_once(self, asked):
        # Each but the first call waits until three are under way.
        contender = asked("self.barrier.wait(20) if self.calls > 1 else None", "self.barrier = threading.Barrier(3)")
        contender.prepare("loop", texts=["a"], threads=3)
        assert len(contender.turn("loop", calls=3)["samples"]) == 3

    def test_one_that_cannot_be_called_so(self, asked):
        contender = asked("if threading.current_thread() is not threading.main_thread(): raise RuntimeError('busy')")
        assert "result" in contender.prepare("loop", texts=["a"], threads=2)
        assert contender.turn("loop") == {"unable": "called from 2 threads at once: RuntimeError: busy"}
        assert "result" in contender.prepare("answer", texts=["a"], batch_size=1)


class TestSizes:
    def test_the_directory_without_the_other_graphs(self, asked, tmp_path):
        folder = tmp_path / "model"
        folder.mkdir()
        for name, size in (("model.onnx", 1000), ("model_int8.onnx", 200), ("config.json", 30)):
            (folder / name).write_bytes(b"x" * size)
        contender = asked(model=str(folder), file="model_int8.onnx")
        contender.prepare("size")
        assert contender.turn("value")["samples"] == [230]

    def test_a_variant_of_a_bundle(self, sample_bundle):
        from torchless_bench.contenders import ENGINES

        with WorkerProcess(None, 1) as worker:
            options = {"model": str(sample_bundle), "variant": "int8", "device": "cpu"}
            contender = Asked(worker, ENGINES / "bundle.py", **options)
            contender.prepare("size")
            [size] = contender.turn("value")["samples"]
        whole = sum(path.stat().st_size for path in sample_bundle.iterdir())
        assert size == whole - (sample_bundle / "model.onnx").stat().st_size

    def test_installed(self, asked):
        contender = asked()
        contender.prepare("installed")
        assert contender.turn("value")["samples"][0] > 10e6
