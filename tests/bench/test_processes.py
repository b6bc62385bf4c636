"""`torchless_bench.processes` and `worker.py`: the protocol, and an end in every case."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from torchless_bench.processes import ContenderError, WorkerProcess

TURN = {"op": "turn", "seconds": 0.02, "calls": 5, "measure": "time"}
PREPARE = {"op": "prepare", "kind": "forward", "arguments": {"ids": [[1]]}, "warmup": 0.0}


def load(engine: Path, needs: tuple[str, ...] = (), **options: object) -> dict[str, object]:
    return {"op": "load", "engine": str(engine), "needs": needs, "options": options, "threads": 3, "installs": []}


def gone(pid: int, within: float = 20) -> bool:
    """Tell whether the process ends in time; one that nobody has reaped counts as ended."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if status == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def worker():
    with WorkerProcess(None, 3) as process:
        yield process


def prepared(worker, engine):
    worker.ask(load(engine), 60)
    return worker.ask(dict(PREPARE), 60)


def test_load_prepare_and_turns(worker, make_engine):
    engine = make_engine("time.sleep(0.004); return [self.threads, self.calls, self.options['x']]")
    loaded = worker.ask(load(engine, ("json", "os.path"), x=7), 60)
    assert set(loaded) == {"versions", "seconds"}
    assert set(loaded["versions"]) == {"python", "numpy"}
    assert worker.ask(dict(PREPARE), 60)["result"] == [3, 1, 7]
    answer = worker.ask(dict(TURN), 60)
    assert 1 <= len(answer["samples"]) <= 5
    assert min(answer["samples"]) >= 0.004
    assert answer["idle"] < 0.5
    if answer["cpu"] is not None:
        there, busy, own = answer["cpu"]
        assert there >= 0
        assert busy >= 0
        assert own >= 0


def test_warms_up_for_as_long_as_asked(worker, make_engine):
    worker.ask(load(make_engine("time.sleep(0.01); return self.calls")), 60)
    worker.ask({**PREPARE, "warmup": 0.1}, 60)
    assert 3 <= worker.ask({**TURN, "measure": "value"}, 60)["samples"][0] <= 12


def test_at_most_so_many_calls(worker, make_engine):
    prepared(worker, make_engine())
    assert len(worker.ask({**TURN, "seconds": 10}, 60)["samples"]) == 5


def test_at_least_one_call(worker, make_engine):
    prepared(worker, make_engine("time.sleep(0.1); return 0"))
    assert len(worker.ask({**TURN, "seconds": 0.001}, 60)["samples"]) == 1


def test_value_is_the_sample(worker, make_engine):
    prepared(worker, make_engine("return 12.5"))
    assert worker.ask({**TURN, "measure": "value"}, 60)["samples"] == [12.5]


def test_only_the_first_rows_of_a_result_are_sent(worker, make_engine):
    found = prepared(worker, make_engine("import numpy; return [numpy.float32(2), numpy.ones((1000, 2)), 'x' * 999]"))
    assert found["result"] == [2.0, [[1.0, 1.0]] * 32, "x" * 999]


def test_what_an_engine_prints_is_no_answer(worker, make_engine):
    engine = make_engine("print('{}', flush=True); os.write(1, b'noise'); return 4", load="print('loaded')")
    assert prepared(worker, engine)["result"] == 4


def test_missing_module_is_a_reason_to_skip(worker, make_engine):
    answer = worker.ask(load(make_engine(), ("json", "no_such_peer", "no_such.package")), 60)
    assert answer == {"skip": f"no_such_peer, no_such.package not installed in {sys.executable}"}


def test_engine_says_why_it_cannot_run_here(worker, make_engine):
    engine = make_engine()
    engine.write_text(engine.read_text() + "\ndef problem(options):\n    return options['why']\n")
    assert worker.ask(load(engine, why="no GPU"), 60) == {"skip": "no GPU"}


def test_error_of_an_engine_is_one_line(worker, make_engine):
    with pytest.raises(ContenderError, match=r"^ValueError: two lines$"):
        prepared(worker, make_engine("raise ValueError('two\\nlines')"))
    assert worker.ask(dict(PREPARE | {"kind": "other", "arguments": {}}), 60)["result"] == 123


def test_needs_nothing_of_the_project(make_engine):
    # Another interpreter has no torchless: the worker must run where nothing but the standard library is.
    code = f"import sys, runpy; sys.argv = ['w']; runpy.run_path({str(worker_path())!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert not [name for name in done.stdout.split() if name.startswith(("torchless", "numpy"))]


def worker_path() -> Path:
    import torchless_bench

    return Path(torchless_bench.__file__).with_name("worker.py")


def test_threads_and_environment(make_engine, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    names = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "HF_HUB_OFFLINE", "PYTHONPATH")
    engine = make_engine(f"return [os.environ.get(name) for name in {names}]")
    with WorkerProcess(None, 3) as ours:
        assert prepared(ours, engine)["result"] == ["3", "3", "1", os.environ["PYTHONPATH"]]
    with WorkerProcess(sys.executable, 3) as theirs:  # named, so it may be any
        assert prepared(theirs, engine)["result"] == ["3", "3", "1", None]


def test_the_workers_neighbours_cannot_be_imported(worker, make_engine):
    engine = make_engine("import importlib.util; return importlib.util.find_spec('rounds') is None")
    assert prepared(worker, engine)["result"] is True


def test_no_such_interpreter(tmp_path):
    with pytest.raises(ContenderError, match="python cannot be started: No such file"):
        WorkerProcess(str(tmp_path / "python"), 1)


class TestDeath:
    def test_exit(self, worker, make_engine):
        engine = make_engine("print('first\\nthe reason', file=sys.stderr, flush=True); os._exit(3)")
        with pytest.raises(ContenderError, match=r"^its process exited with status 3: the reason$"):
            prepared(worker, engine)

    @pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
    def test_signal(self, worker, make_engine):
        with pytest.raises(ContenderError, match=r"^its process was ended by SIGKILL$"):
            prepared(worker, make_engine("os.kill(os.getpid(), signal.SIGKILL)"))

    def test_while_nobody_asks(self, worker, make_engine):
        prepared(worker, make_engine("threading.Timer(0.2, os._exit, [5]).start(); return 0"))
        time.sleep(0.6)
        with pytest.raises(ContenderError, match="exited with status 5"):
            worker.ask(dict(TURN), 60)

    def test_not_a_python(self):
        program = "/bin/true"
        if not Path(program).exists():
            pytest.skip(f"no {program} here")
        with WorkerProcess(program, 1) as process, pytest.raises(ContenderError, match="exited with status 0"):
            process.ask(dict(TURN), 60)

    def test_hang(self, make_engine):
        with WorkerProcess(None, 1) as process:
            process.ask(load(make_engine("time.sleep(1000)")), 60)
            with pytest.raises(ContenderError, match=r"^no answer to 'prepare' within 0\.3 s; see --time-limit$"):
                process.ask(dict(PREPARE), 0.3)
            process.kill()
        assert gone(process.pid)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
class TestNothingIsLeft:
    CHILD = "return subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)']).pid"

    def test_after_the_end(self, make_engine):
        with WorkerProcess(None, 1) as process:
            child = prepared(process, make_engine(self.CHILD))["result"]
            assert not gone(child, within=0.1)
        assert gone(process.pid)
        assert gone(child)

    def test_after_an_interruption(self, make_engine, monkeypatch):
        monkeypatch.setattr("torchless_bench.processes._GRACE", 60.0)

        def interrupted():
            with WorkerProcess(None, 1) as process:
                pids.extend([process.pid, prepared(process, make_engine(self.CHILD))["result"]])
                # A call that would go on for long: nobody who presses Ctrl-C waits for it.
                process._send({**PREPARE, "warmup": 1000.0})
                raise KeyboardInterrupt

        pids: list[int] = []
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert time.monotonic() - start < 30
        assert all(map(gone, pids))

    def test_in_the_temporary_directory(self, make_engine):
        engine = make_engine("import tempfile; time.sleep(0.01); return tempfile.mkdtemp()")
        with WorkerProcess(None, 1) as process:
            folder = Path(prepared(process, engine)["result"])
            assert folder.is_dir()
            process.kill()
        assert not folder.exists()

    def test_where_the_benchmark_was_killed(self, make_engine, tmp_path):
        # The worker is in the midst of a call, and has a child: nobody is left to end either.
        engine = make_engine(f"open({str(tmp_path / 'child')!r}, 'w').write(str({self.CHILD[7:]})); time.sleep(1000)")
        code = (
            "from torchless_bench.processes import WorkerProcess\n"
            "worker = WorkerProcess(None, 1)\n"
            "print(worker.pid, worker._scratch.name, flush=True)\n"
            f"worker.ask({load(engine)!r}, 60)\n"
            f"worker.ask({PREPARE!r}, 60)\n"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as benchmark:
            pid, folder = benchmark.stdout.readline().split()
            assert Path(folder).is_dir()
            end = time.monotonic() + 60
            while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
                assert time.monotonic() < end
                time.sleep(0.02)
            benchmark.send_signal(signal.SIGKILL)
        assert gone(int(pid))
        assert gone(int((tmp_path / "child").read_text()))
        assert not Path(folder).exists()
