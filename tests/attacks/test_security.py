"""SECURITY.md promises nothing that is not tested."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_TEST = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")


def promises(text: str) -> Iterator[tuple[str, str]]:
    """Yield each promise, which is an item of a list, and its id, which may be missing."""
    for item in re.split(r"^- ", text, flags=re.MULTILINE)[1:]:
        body = re.split(r"\n\n|\n#", item, maxsplit=1)[0]
        found = re.match(r"\*\*([A-Z]\d+)\*\* ", body)
        yield found[1] if found else "", body


def names_of_tests(path: Path) -> set[str]:
    """Return the tests in a file, as `test_a` or `TestB::test_c`."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return {name for name in found if name.rpartition("::")[2].startswith("test_")}


def untested(text: str) -> list[str]:
    """Return what is wrong with the promises in `text`, a line each."""
    wrong, seen = [], set()
    for name, body in promises(text):
        if not name or name in seen:
            wrong.append(f"no id of its own: {body[:60]}")
        seen.add(name)
        named = _TEST.findall(body)
        if not named:
            wrong.append(f"{name}: names no test")
        for file, test in named:
            if not (ROOT / file).is_file() or test not in names_of_tests(ROOT / file):
                wrong.append(f"{name}: there is no {file}::{test}")
    return wrong


def test_every_promise_has_a_test() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert len(list(promises(text))) > 25
    assert untested(text) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("- **A1** All is well. `tests/attacks/test_security.py::test_every_promise_has_a_test`\n", []),
        ("- **A1** All is well.\n", ["A1: names no test"]),
        ("- All is well. `tests/attacks/test_security.py::test_every_promise_has_a_test`\n", ["no id of its own"]),
        ("- **A1** Well. `tests/attacks/test_security.py::test_nothing`\n", ["A1: there is no"]),
        ("- **A1** Well. `tests/attacks/test_gone.py::test_every_promise_has_a_test`\n", ["A1: there is no"]),
        ("- **A1** Well. `tests/attacks/test_security.py::untested`\n", ["A1: there is no"]),
        ("- **A1** Well.\n- **A1** Well.\n", ["A1: names no test", "no id of its own", "A1: names no test"]),
    ],
)
def test_a_promise_without_one_is_found(text: str, wrong: list[str]) -> None:
    found = untested(text)
    assert len(found) == len(wrong)
    assert all(line.startswith(start) for line, start in zip(found, wrong, strict=True))
