"""Pipelines in other processes: pickled, and forked as multiprocessing does it."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import torchless
from torchless.errors import BundleError, InferenceError, TorchlessWarning
from torchless.pipelines.text_classification import TextClassificationPipeline

TEXTS = ["a fine film", "dull", "it is long and it is sad, and nobody laughs"]


class TestPickle:
    def test_it_answers_as_before(self, pipe: TextClassificationPipeline) -> None:
        again = pickle.loads(pickle.dumps(pipe))
        assert again is not pipe
        assert type(again) is type(pipe)
        assert (again.variant, again.provider, again.labels) == (pipe.variant, pipe.provider, pipe.labels)
        assert again(TEXTS) == pipe(TEXTS)
        assert again("dull") == pipe("dull")  # the shape of one text hangs on what top_k was not given

    @pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
    def test_its_arguments_go_with_it(self, sample_bundle: Path, protocol: int) -> None:
        with torchless.pipeline(
            model=sample_bundle,
            device="cpu",
            variant="fp32",
            batch_size=2,
            threads=1,
            profile="throughput",
            top_k=None,
            function_to_apply="sigmoid",
            truncation=True,
            max_length=4,
        ) as given:
            again = pickle.loads(pickle.dumps(given, protocol))
            assert again._options == given._options
            assert again._session.threads == 1
            assert again("a film far too long") == given("a film far too long")
            assert len(again("dull")[0]) == 2

    def test_a_copy_is_another_pipeline(self, pipe: TextClassificationPipeline) -> None:
        with copy.deepcopy(pipe) as other:
            assert other._session is not pipe._session
        with pytest.raises(InferenceError, match="closed"):
            other("dull")
        assert pipe("dull")

    def test_a_relative_path_goes_along(self, sample_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(sample_bundle.parent)
        data = pickle.dumps(torchless.pipeline(model=sample_bundle.name, device="cpu"))
        monkeypatch.chdir("/")
        assert pickle.loads(data)("dull")

    def test_where_the_working_directory_changed_since(
        self, sample_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(sample_bundle.parent)
        pipe = torchless.pipeline(model=sample_bundle.name, device="cpu")
        assert pipe.bundle == Path(sample_bundle.name)
        monkeypatch.chdir("/")
        assert pickle.loads(pickle.dumps(pipe))("dull") == pipe("dull")

    def test_a_closed_one_is_refused(self, sample_bundle: Path) -> None:
        closed = torchless.pipeline(model=sample_bundle, device="cpu")
        closed.close()
        with pytest.raises(InferenceError, match="this pipeline is closed"):
            pickle.dumps(closed)

    def test_the_files_are_checked_again(self, bundle_copy: Path) -> None:
        data = pickle.dumps(torchless.pipeline(model=bundle_copy, device="cpu"))
        with (bundle_copy / "tokenizer.json").open("ab") as file:
            file.write(b" ")
        with pytest.raises(BundleError, match=r"tokenizer\.json: \d+ bytes, the manifest says"):
            pickle.loads(data)

    def test_what_was_trusted_stays_so(self, sample_bundle: Path, tmp_path: Path) -> None:
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.onnx"):
            shutil.copyfile(sample_bundle / name, tmp_path / name)
        document = json.loads((tmp_path / "tokenizer.json").read_bytes())
        document["pre_tokenizer"] = {
            "type": "Split",
            "pattern": {"Regex": "(x+)+y"},
            "behavior": "Isolated",
            "invert": False,
        }
        (tmp_path / "tokenizer.json").write_text(json.dumps(document))
        with pytest.warns(TorchlessWarning, match="unverified"):
            trusting = torchless.pipeline(model=tmp_path, device="cpu", trust=True)
        again = pickle.loads(pickle.dumps(trusting))
        assert again("dull") == trusting("dull")
        with pytest.raises(BundleError, match="regular expression"):
            torchless.pipeline(model=tmp_path, device="cpu")


# Run as a program: what hangs is a process of its own, with a time limit.
PROGRAM = """
import json, multiprocessing, os, sys, threading
from concurrent.futures import ProcessPoolExecutor
import torchless

TEXTS = {texts!r}

def same(pipe, wanted, report):
    report.put(pipe(TEXTS) == wanted)

def closed(pipe, report):
    pipe.close()
    report.put(True)

def idle(report):
    report.put(True)

def many(pipe, wanted, report):
    "The first call of the process, from eight threads at once: one session is opened."
    sessions, answers = set(), []
    def call():
        answers.append(pipe(TEXTS) == wanted)
        sessions.add(id(pipe._session))
    threads = [threading.Thread(target=call) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    report.put(all(answers) and len(answers) == 8 and len(sessions) == 1 and not pipe._session.inherited)

def nested(pipe, wanted, report):
    pipe(TEXTS)
    child = context.Process(target=same, args=(pipe, wanted, report))
    child.start()
    child.join()

if __name__ == "__main__":
    method, bundle = sys.argv[1:]
    context = multiprocessing.get_context(method)
    pipe = torchless.pipeline(model=bundle, device="cpu", variant="fp32", threads=2)
    wanted = pipe(TEXTS)
    report = context.Queue()
    jobs = [(same, (pipe, wanted, report)), (closed, (pipe, report)), (idle, (report,)), (many, (pipe, wanted, report))]
    jobs += [(nested, (pipe, wanted, report))] * (method == "fork")
    told = {{}}
    for job, arguments in jobs:
        process = context.Process(target=job, args=arguments)
        process.start()
        told[job.__name__] = report.get(timeout=60)
        process.join(60)
        assert process.exitcode == 0, (job.__name__, process.exitcode)
    with context.Pool(2) as pool:
        told["Pool"] = pool.map(pipe, TEXTS * 4) == [[answer] for answer in wanted * 4]
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        told["ProcessPoolExecutor"] = list(pool.map(pipe, [TEXTS] * 4)) == [wanted] * 4
    told["parent"] = pipe(TEXTS) == wanted and not pipe._session.inherited
    print(json.dumps(told))
"""
METHODS = ["spawn", *(["forkserver", "fork"] if hasattr(os, "fork") else [])]


@pytest.mark.parametrize("method", METHODS)
def test_multiprocessing(sample_bundle: Path, tmp_path: Path, method: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(texts=TEXTS))
    done = subprocess.run(
        [sys.executable, str(program), method, str(sample_bundle)],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert all(told.values()), told
    assert len(told) == (8 if method == "fork" else 7)
    assert "huggingface/tokenizers" not in done.stderr  # its warning on forks


# What a forked process is told when the bundle is no longer what was opened, and on CUDA.
FORKED = """
import os, sys, torchless
from torchless.devices import Device
pipe = torchless.pipeline(model=sys.argv[1], device="cpu", threads=2)
pipe("dull")
if sys.argv[2] == "changed":
    for name in ("model.onnx", "model_int8.onnx"):
        with open(os.path.join(sys.argv[1], name), "ab") as file:
            file.write(b"x")
else:
    pipe._device = Device("cuda")
child = os.fork()
if child == 0:
    sys.exit(0)  # though nothing was called, and the interpreter cleans up
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
child = os.fork()
if child == 0:
    try:
        pipe("dull")
    except torchless.TorchlessError as error:
        print(type(error).__name__, error, flush=True)
        os._exit(7)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(pipe("dull")))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("changed", "BundleError .*bytes, the manifest says"),
        ("cuda", "ProviderError cuda:0: CUDA does not work in a process forked .* 'spawn' or 'forkserver'"),
    ],
)
def test_what_a_forked_process_cannot_do(bundle_copy: Path, tmp_path: Path, how: str, says: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(FORKED)
    done: Any = subprocess.run(
        [sys.executable, str(program), str(bundle_copy), how], capture_output=True, text=True, timeout=60, check=False
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2, (done.stdout, done.stderr)
    assert re.match(says, lines[0]), lines
    assert lines[1] == "7 1"


# A user who asked for the tokenizers library's threads, and a working directory that is another than the bundle was
# named from.
SETTLED = """
import os, sys
os.environ["TOKENIZERS_PARALLELISM"] = "true"
import torchless
folder, name = os.path.split(sys.argv[1])
os.chdir(folder)
pipe = torchless.pipeline(model=name, device="cpu", variant="fp32")
texts = [f"fine film {i}" for i in range(200)]
wanted = pipe(texts)
os.chdir("/")
child = os.fork()
if child == 0:
    os._exit(0 if pipe(texts) == wanted else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("variable", ["true", "false"])
def test_forked_with_the_tokenizers_threads_and_from_elsewhere(sample_bundle: Path, variable: str) -> None:
    script = SETTLED.replace('"true"', f'"{variable}"')
    # In a session of its own, so that a child that hangs is ended with its parent.
    command = [sys.executable, "-c", script, str(sample_bundle)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.communicate(timeout=60)[0] == "0\n"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


# Closed while another thread opens the process's own session.
CLOSED = """
import os, sys, threading
import torchless
from torchless.pipelines import base
pipe = torchless.pipeline(model=sys.argv[1], device="cpu", variant="fp32")
child = os.fork()
if child == 0:
    opening, go_on, real = threading.Event(), threading.Event(), base.open_session
    def slowly(*arguments, **options):
        opening.set()
        go_on.wait(30)
        return real(*arguments, **options)
    base.open_session = slowly
    caller = threading.Thread(target=lambda: pipe("fine"))
    caller.start()
    opening.wait(30)
    threading.Timer(0.2, go_on.set).start()
    pipe.close()
    caller.join()
    os._exit(0 if pipe._is_closed else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_closed_while_a_forked_process_opens_its_session(sample_bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLOSED, str(sample_bundle)], stdout=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert done.stdout == "0\n"
