"""The error tree of DESIGN.md, and what holds for every message."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchless import errors

TREE = {
    "TorchlessError": {"Exception"},
    "BundleError": {"TorchlessError", "ValueError"},
    "BundleVersionError": {"BundleError"},
    "CheckpointError": {"TorchlessError", "ValueError"},
    "ParityError": {"TorchlessError"},
    "InputError": {"TorchlessError", "ValueError"},
    "InputTypeError": {"InputError", "TypeError"},
    "UnknownFunctionError": {"InputError", "KeyError"},
    "ProviderError": {"TorchlessError", "RuntimeError"},
    "InferenceError": {"TorchlessError", "RuntimeError"},
    "TorchlessWarning": {"UserWarning"},
}
ERRORS = sorted(TREE.keys() - {"TorchlessWarning"})


def test_the_tree_is_the_designs():
    found = {name: {base.__name__ for base in getattr(errors, name).__bases__} for name in errors.__all__}
    assert found == TREE


def test_the_drawing_in_the_module_names_every_class_with_its_other_base():
    drawn = dict(re.findall(r"^ {4,}([A-Z]\w+)(?:\((\w+)\))?(?: {2}|$)", errors.__doc__ or "", re.MULTILINE))
    assert drawn.keys() == TREE.keys()
    for name, base in drawn.items():
        assert {base} == {other for other in TREE[name] if other not in TREE} or not base


@pytest.mark.parametrize("name", ERRORS)
@given(text=st.text(alphabet=st.characters(), max_size=40) | st.sampled_from(["a\nb", "\x1b[31m", "\u2028", "\ud800"]))
def test_every_message_is_one_printable_line(name, text):
    message = str(getattr(errors, name)(f"file {text} found"))
    assert message.isprintable()
    assert message.startswith("file ")
    assert message.endswith(" found")


@pytest.mark.parametrize("name", ERRORS)
def test_a_plain_message_is_shown_as_it_is(name):
    assert str(getattr(errors, name)("it's 'this', wanted \"that\"")) == "it's 'this', wanted \"that\""


@pytest.mark.parametrize("remade", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize(
    ("error", "attribute", "value"),
    [
        (errors.InputError("text 3", 3), "index", 3),
        (errors.InputTypeError("text 0", 0), "index", 0),
        (errors.UnknownFunctionError("no"), "index", None),
        (errors.ParityError("far off", {"agreement": 0.5}), "report", {"agreement": 0.5}),
        (errors.BundleVersionError("newer"), "args", ("newer",)),
    ],
)
def test_copies_and_pickles_keep_all(remade, error, attribute, value):
    again = remade(error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert getattr(again, attribute) == value


@given(st.text(alphabet=st.characters(), max_size=60), st.integers(1, 30))
def test_one_line_is_printable_bounded_and_settled(text, limit):
    line = errors.one_line(text, limit)
    assert line.isprintable()
    assert len(line) <= limit
    assert errors.one_line(line, limit) == line


@pytest.mark.parametrize(
    ("text", "limit", "line"),
    [
        ("two\r\nlines\tand  more ", 100, "two lines and more"),
        ("\x1b[2J\0", 100, r"\x1b[2J\x00"),
        ("a" * 12, 10, "a" * 9 + "…"),
        ("a" * 10, 10, "a" * 10),
        ("überall 🙂", 100, "überall 🙂"),
    ],
)
def test_one_line(text, limit, line):
    assert errors.one_line(text, limit) == line


def test_a_warning_is_given_once(monkeypatch):
    monkeypatch.setattr(errors, "_given", set())
    with pytest.warns(errors.TorchlessWarning, match=r"^ignored: a b$"):
        errors.warn_once("ignored:\na b")
    errors.warn_once("ignored: a b")  # a warning is an error in these tests
    with pytest.warns(errors.TorchlessWarning, match="another"):
        errors.warn_once("another")
