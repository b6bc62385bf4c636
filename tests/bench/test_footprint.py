"""`torchless_bench.footprint`: which files a contender opens, and which pip has installed for it."""

from __future__ import annotations

import importlib.metadata
import os
import py_compile
from pathlib import Path

import pytest

from torchless_bench.footprint import files_opened, sizes_installed


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that installs a distribution as pip records it: `environment("a", ["b>=1"], x=100)`."""
    packages = tmp_path / "site-packages"
    packages.mkdir()
    monkeypatch.syspath_prepend(str(packages))

    def install(name: str, requires: tuple[str, ...] = (), extras: tuple[str, ...] = (), **sizes: int) -> None:
        info = packages / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        lines = [f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {line}" for line in requires)]
        lines += [f"Provides-Extra: {extra}" for extra in extras]
        (info / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")
        for file, size in sizes.items():
            (packages / f"{file}.py").write_bytes(b"#" * size)
        names = [*(f"{file}.py" for file in sizes), f"{info.name}/METADATA", "no-more-there.py"]
        (info / "RECORD").write_text("".join(f"{each},,\n" for each in names))

    return install


def sizes(*requirements: str) -> dict[str, int]:
    found = sizes_installed(list(requirements))
    return {os.path.basename(file): size for file, size in found.items() if not file.endswith("METADATA")}


def test_with_all_that_it_requires_and_nothing_else(environment):
    environment("a-top", ("b.middle>=1", "c; python_version < '3'", "d; extra == 'more'"), ("more",), top=10)
    environment("b-middle", ("a-top",), middle=200)
    environment("d", more=3000)
    environment("unrelated", other=40000)
    assert sizes("a-top") == {"top.py": 10, "middle.py": 200}
    assert sizes("a-top[more]") == {"top.py": 10, "middle.py": 200, "more.py": 3000}
    assert sizes("a-top", "a-top[more]") == sizes("a-top[more]")


def test_an_editable_one_is_counted_by_its_packages(environment, tmp_path):
    source = tmp_path / "source"
    (source / "pkg" / "__pycache__").mkdir(parents=True)
    (source / "pkg" / "__init__.py").touch()
    module = source / "pkg" / "module.py"
    module.write_bytes(b'"""A module."""\n\nanswer = 42\n')
    (source / "pkg" / "table.txt").write_bytes(b"x" * 70)
    (source / "figures").mkdir()  # no package
    (source / "figures" / "large.png").write_bytes(b"x" * 90000)
    (source / "README.md").write_bytes(b"x" * 800)
    compiled = Path(py_compile.compile(str(module))).stat().st_size
    environment("edited")
    packages = tmp_path / "site-packages"
    (packages / "_edited.pth").write_text(f"{source}\nimport something\n")
    (packages / "edited-1.0.dist-info" / "RECORD").write_text("_edited.pth,,\n")
    found = sizes("edited")
    assert found.pop("__init__.pyc") < 200
    assert found == {
        "_edited.pth": len(f"{source}\nimport something\n"),
        "__init__.py": 0,
        "module.py": 29,
        "module.pyc": compiled,
        "table.txt": 70,
    }


def test_what_is_not_installed_is_named(environment):
    environment("a", ("no-such-distribution",))
    with pytest.raises(NotImplementedError, match=r"^no-such-distribution not installed in "):
        sizes_installed(["a"])


def test_as_pip_records_it():
    found = sizes_installed(["numpy"])
    recorded = {str(file.locate()) for file in importlib.metadata.files("numpy") or () if file.locate().is_file()}
    assert {os.path.realpath(file): os.stat(file).st_size for file in recorded} == found


def test_opened_are_the_settings_and_one_graph(tmp_path):
    for name in ("model.onnx", "model.onnx.data", "model_int8.onnx", "config.json", "tokenizer.json"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()

    def opened(**options: str) -> set[str]:
        return {os.path.basename(file) for file in files_opened({"model": str(tmp_path), **options})}

    settings = {"config.json", "tokenizer.json"}
    assert opened(file="model_int8.onnx") == settings | {"model_int8.onnx"}
    assert opened(file="model.onnx") == settings | {"model.onnx", "model.onnx.data"}
    assert opened() == settings | {"model.onnx", "model.onnx.data", "model_int8.onnx"}
