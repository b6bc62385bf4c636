"""Whole exports under faults: the old bundle or the new one, never a mix, and nothing left that a rerun does not clear.

`test_writer_processes.py` kills the writer at each of its own steps; here it is the export, at each of its stages.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import disks
from torchless.bundle import Bundle
from torchless.errors import BundleError
from untraced import UNTRACED

pytest.importorskip("onnx")
pytest.importorskip("safetensors")

from torchless_export import export, writer  # needs onnx

linux = pytest.mark.skipif(sys.platform != "linux", reason="forks, and exchanges directories")

# Exports once, so that everything is imported, and then once more in a fork for each line that it reads: what to do at
# which moment. Moments are counted as the export tells its progress.
PROCESS = r"""
import json, os, signal, sys, time, warnings
from torchless_export import export
from torchless.errors import TorchlessError

warnings.simplefilter("ignore")
checkpoint, warm = sys.argv[1:3]

def run(target, moment, what, texts):
    told = []
    def progress(step, done, total):
        told.append(step)
        if len(told) - 1 == moment:
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "forbid":
                os.chmod(os.path.dirname(target), 0o555)
            if what == "wait":
                print("waiting", flush=True)
                sys.stdin.readline()
    if what == "forbid":
        os.seteuid(65534)  # for root every place can be written
    try:
        export(checkpoint, target, force=True, calibration=texts, min_agreement=0, progress=progress)
    except TorchlessError as error:
        return {"error": type(error).__name__, "message": str(error), "told": told}
    return {"error": None, "message": "", "told": told}

print(json.dumps(run(warm, None, "", ["a fine film", "dull"])), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if not child:
        said = run(request["target"], request["moment"], request["what"], request["texts"])
        os.write(1, (json.dumps(said) + "\n").encode())
        os._exit(0)
    if request.get("delay"):
        time.sleep(request["delay"])
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), flush=True)
"""

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def exporting(sample_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ask, list[str]]]:
    """A function that exports in a process of its own, with a fault; and the stages that an export tells of."""
    warm = tmp_path_factory.mktemp("warm") / "bundle"
    command = [sys.executable, "-c", PROCESS, str(sample_checkpoint), str(warm)]
    environment = UNTRACED | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=None, text=True, env=environment) as process:
        assert process.stdin
        assert process.stdout
        told = json.loads(process.stdout.readline())["told"]

        def ask(target: Path, moment: int | None, what: str, **more: Any) -> dict[str, Any]:
            request = {"target": str(target), "moment": moment, "what": what, "texts": ["a fine film", "dull"]} | more
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            said: dict[str, Any] = {}
            while "status" not in said:
                line = process.stdout.readline()
                assert line, "the process that exports has ended"
                said |= json.loads(line)
            return said

        try:
            yield ask, told
        finally:
            process.stdin.close()
            process.wait(60)


def created(target: Path) -> str | None:
    """Return when the bundle at `target` was made, having read all of its files; None: there is none."""
    if not target.exists():
        return None
    bundle = Bundle.open(target)
    for entry in bundle.manifest.files:
        if not entry.path.startswith("model"):
            bundle.read(entry.path)
    for variant in bundle.manifest.variants:
        with bundle.model(variant):
            pass
    return str(bundle.manifest.provenance["created"])


def put(target: Path, sample_bundle: Path) -> None:
    """Put a bundle there whose date is another than that of any export made now."""
    shutil.copytree(sample_bundle, target)
    manifest = json.loads((target / "torchless.json").read_bytes())
    manifest["provenance"]["created"] = "before"
    (target / "torchless.json").write_text(json.dumps(manifest), encoding="utf-8")


def clear(target: Path) -> None:
    """Begin the next export, which clears what the last one left, and let it fail."""
    with writer.DirectoryWriter(target, force=True):
        pass


@linux
def test_killed_at_each_stage(exporting: tuple[Ask, list[str]], sample_bundle: Path, tmp_path: Path) -> None:
    ask, told = exporting
    # The first and the last moment of each stage.
    moments = sorted({told.index(step) for step in told} | {len(told) - 1 - told[::-1].index(step) for step in told})
    assert len({told[moment] for moment in moments}) >= 5
    for before in ("nothing", "old"):
        target = tmp_path / before / "bundle"
        if before == "old":
            put(target, sample_bundle)
        for moment in moments:
            said = ask(target, moment, "kill")
            assert said["status"] == -9, said
            assert created(target) == ("before" if before == "old" else None), told[moment]
            clear(target)
            assert created(target) == ("before" if before == "old" else None), told[moment]
            if before == "old":
                assert os.listdir(target.parent) == ["bundle"]


@linux
def test_killed_at_any_moment(exporting: tuple[Ask, list[str]], sample_bundle: Path, tmp_path: Path) -> None:
    """Whatever the clock says: the bundle there is whole, be it the old one or the new one."""
    ask, _ = exporting
    target = tmp_path / "place" / "bundle"
    put(target, sample_bundle)
    for turn in range(8):
        before = (target / "torchless.json").stat().st_mtime_ns
        said = ask(target, None, "", delay=0.05 + 0.1 * turn)
        assert created(target) is not None
        after = (target / "torchless.json").stat().st_mtime_ns
        if said.get("error", "killed before it said") is None:
            assert after != before
        clear(target)
        assert created(target) is not None
        assert (target / "torchless.json").stat().st_mtime_ns == after
        assert os.listdir(target.parent) == ["bundle"]


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that everybody may enter; pytest's are for the user that runs it."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@linux
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may become somebody else")
def test_permission_lost_on_the_way(exporting: tuple[Ask, list[str]], sample_bundle: Path, open_place: Path) -> None:
    ask, told = exporting
    target = open_place / "place" / "bundle"
    put(target, sample_bundle)
    os.chown(target.parent, 65534, 65534)
    for step in ("convert", "compare", "write"):
        said = ask(target, told.index(step), "forbid")
        assert said["error"] == "BundleError", said
        assert "cannot be written: Permission denied; free space or choose another place" in said["message"]
        target.parent.chmod(0o755)
        assert created(target) == "before"
        clear(target)
        assert os.listdir(target.parent) == ["bundle"]


@linux
def test_two_exports_at_once_leave_one_of_them_whole(
    exporting: tuple[Ask, list[str]], sample_checkpoint: Path, sample_bundle: Path, tmp_path: Path
) -> None:
    ask, _ = exporting
    target = tmp_path / "place" / "bundle"
    put(target, sample_bundle)
    command = [sys.executable, "-c", PROCESS, str(sample_checkpoint), str(target)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=UNTRACED) as other:
        turns = 0
        while other.poll() is None or turns == 0:
            said = ask(target, None, "")
            assert (said["status"], said["error"]) == (0, None), said
            assert created(target) not in (None, "before")
            turns += 1
        assert other.stdout
        assert json.loads(other.stdout.readline())["error"] is None
    assert created(target) is not None
    assert os.listdir(target.parent) == ["bundle"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_as_the_bundle_is_synced(
    sample_checkpoint: Path, sample_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    target = tmp_path / "place" / "bundle"
    put(target, sample_bundle)

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(writer.os, "fsync", fail)
    with pytest.raises(BundleError, match=f"cannot be written: {os.strerror(number)}; free space"):
        export(
            sample_checkpoint,
            target,
            variants=("fp32",),
            force=True,
            calibration=["a fine film", "dull"],
            min_agreement=0,
        )
    assert created(target) == "before"
    assert os.listdir(target.parent) == ["bundle"]


@pytest.fixture
def disk_with_quota(tmp_path: Path) -> Iterator[Path]:
    with disks.with_quota(tmp_path / "disk") as place:
        yield place


@linux
@pytest.mark.parametrize("left", [64 << 10, 1 << 20, 5 << 20, 7 << 20])
def test_a_quota_that_is_used_up_leaves_the_old_bundle(
    sample_checkpoint: Path, sample_bundle: Path, disk_with_quota: Path, left: int
) -> None:
    """However far the export gets with the bytes that are left; where they are given back, the next one succeeds."""
    target = disk_with_quota / "place" / "bundle"
    put(target, sample_bundle)
    filler = disk_with_quota / "filler"
    used = sum(path.stat().st_size for path in target.iterdir())
    filler.write_bytes(bytes(disks.QUOTA - used - left))

    def run() -> None:
        export(sample_checkpoint, target, force=True, calibration=["a fine film", "dull"], min_agreement=0)

    with pytest.raises(BundleError, match=f"cannot be written: {os.strerror(errno.EDQUOT)}; free space") as caught:
        run()
    assert str(caught.value).startswith(str(target))
    assert created(target) == "before"
    assert os.listdir(target.parent) == ["bundle"]
    filler.unlink()
    run()
    assert created(target) not in (None, "before")
    assert os.listdir(target.parent) == ["bundle"]
