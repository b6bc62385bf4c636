"""The Dockerfile: read, and its steps taken in a directory, since no engine is here."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = REPOSITORY / "Dockerfile"

pytestmark = pytest.mark.skipif(not DOCKERFILE.exists(), reason="the tests run without their repository")


@pytest.fixture(scope="module")
def image():
    spec = importlib.util.spec_from_file_location("image", REPOSITORY / "tools" / "image.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def steps(image):
    return list(image.instructions(DOCKERFILE.read_text(encoding="utf-8")))


def last(steps, name):
    return [step for step in steps if step.name == name][-1]


def test_ships_a_slim_base_without_what_builds(steps):
    bases = [step.rest.split()[0] for step in steps if step.name == "FROM"]
    assert bases == ["python:3.11-slim"] * 2
    final = steps[[step.name for step in steps].index("FROM", 1) :]
    assert "RUN" not in [step.name for step in final]
    assert [step.options.get("from") for step in final if step.name == "COPY"] == ["build", None]


def test_installs_the_runtime_and_no_other_extra(steps):
    installs = [step.rest for step in steps if step.name == "RUN" and " install " in step.rest]
    assert [line.partition("--quiet ")[2] for line in installs] == [
        "--require-hashes -r requirements/runtime.txt", "--no-deps .",
    ]  # fmt: skip
    pinned = (REPOSITORY / "requirements" / "runtime.txt").read_text(encoding="utf-8")
    names = {line.partition("==")[0] for line in pinned.splitlines() if "==" in line}
    assert {"onnxruntime", "tokenizers", "numpy"} <= names
    assert not names & {"torch", "transformers", "optimum", "onnx", "onnxruntime-gpu"}


def test_is_not_root_and_cannot_write_its_bundle(steps):
    user, _, group = last(steps, "USER").rest.partition(":")
    assert min(int(user), int(group)) >= 1000
    bundle = last(steps, "COPY")
    assert bundle.rest == "${BUNDLE} /bundle"
    assert int(bundle.options["chmod"], 8) & 0o222 == 0
    assert bundle.options["chmod"] == "0555"


def test_what_it_runs_is_a_command_of_the_project(steps):
    assert json.loads(last(steps, "ENTRYPOINT").rest) == ["torchless"]
    command = json.loads(last(steps, "CMD").rest)
    assert command[:2] == ["run", "/bundle"]
    shown = subprocess.run(
        [sys.executable, "-m", "torchless", command[0], "--help"], capture_output=True, text=True, check=True
    )
    assert all(word in shown.stdout for word in command if word.startswith("--"))


def test_copies_what_there_is(steps, image):
    sources = [word for step in steps if step.name == "COPY" and not step.options for word in step.rest.split()[:-1]]
    assert {"pyproject.toml", "runtime", "export", "bench"} <= set(sources)
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    for source in sources:
        assert (REPOSITORY / source).exists(), source
        assert source not in ignored


def test_an_instruction_over_two_lines(image):
    found = list(image.instructions('# no\nFROM x AS y\n\nRUN a \\\n  b\nCOPY --from=y --chmod=0555 c d\nCMD ["e"]\n'))
    assert [step.name for step in found] == ["FROM", "RUN", "COPY", "CMD"]
    assert found[1].rest.split() == ["a", "b"]
    assert found[2].options == {"from": "y", "chmod": "0555"}
    assert found[2].rest == "c d"


def test_an_instruction_that_is_not_known_is_refused(image, tmp_path):
    with pytest.raises(ValueError, match="HEALTHCHECK: this instruction is not known here"):
        image.Image("FROM x\nHEALTHCHECK none\n", tmp_path, tmp_path / "made", {})


def test_the_steps_with_the_packages_that_are_here(image, sample_bundle, tmp_path):
    """All but pip's: what it would fetch is linked from this environment, so that no network is needed."""
    context = tmp_path / "context"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        context.mkdir(exist_ok=True)
        shutil.copyfile(REPOSITORY / name, context / name)
    for name in ("requirements", "runtime", "export", "bench"):
        shutil.copytree(REPOSITORY / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(sample_bundle, context / "bundle")
    import onnxruntime

    packages = Path(onnxruntime.__file__).parents[1]
    there = "/opt/torchless/lib/python*/site-packages"
    text = DOCKERFILE.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if "-m pip" not in line]
    at = lines.index("RUN python -m venv /opt/torchless") + 1
    lines[at - 1] += " --without-pip"
    lines.insert(at, f"RUN for d in {there}; do echo {packages} > $d/others.pth; cp -r runtime/torchless $d/; done")
    # In place of the script that pip makes: the module that it calls.
    lines.insert(at + 1, "RUN install runtime/torchless/__main__.py /opt/torchless/bin/torchless")
    made = image.Image("\n".join(lines), context, tmp_path / "stages", {"BUNDLE": "bundle"})
    answer = json.loads(made.answer("What a fine film."))
    assert answer["text"] == "What a fine film."
    assert answer["label"] in ("NEGATIVE", "POSITIVE")
    assert set(made.sizes()) == {"/bundle", "/opt"}
    assert made.sizes()["/bundle"] == sum(path.stat().st_size for path in sample_bundle.iterdir())
    assert made.wrong_modes() == []
    assert {path.stat().st_mode & 0o777 for path in (made.last.root / "bundle").iterdir()} == {0o555}
    (made.last.root / "bundle" / "config.json").chmod(0o666)
    assert [Path(path).name for path in made.wrong_modes()] == ["config.json"]
