"""JSON that was made to harm its reader, in every file where JSON is read; and manifests that fit no schema."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from attempts import RESIDENT, check_refused
from hostile import edit, seal

# Each proves that what two readers understand differently, or what costs more than its size, is refused.
DOCUMENTS: dict[str, bytes] = {
    "nested arrays": b"[" * 100_000 + b"]" * 100_000,
    "nested objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "nested arrays that never end": b"[" * 1_000_000,
    "a key twice": b'{"format": "1.0", "format": "1.0"}',
    "a key twice, deeply": b'{"a": [{"b": {"c": 1, "c": 2}}]}',
    "a huge integer": b'{"a": ' + b"9" * 1_000_000 + b"}",
    "a huge exponent": b'{"a": 1e999999}',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": -Infinity}',
    "a lone surrogate": b'{"a": "\\ud800"}',
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "a NUL": b'{"a": "\x00"}',
    "many small values": b'{"a": [' + b"[]," * 5_000_000 + b"[]]}",
    "many keys": b"{" + b",".join(b'"%d":0' % i for i in range(1_400_000)) + b"}",
    "a list": b"[]",
    "null": b"null",
    "nothing": b"",
    "blanks": b" " * 1_000_000,
    "two documents": b"{}{}",
    "cut": b'{"format": "1.',
}


@pytest.mark.parametrize("kind", DOCUMENTS)
@pytest.mark.parametrize("name", ["torchless.json", "config.json", "tokenizer.json"])
def test_of_a_bundle(bundle: Path, open_it: Any, name: str, kind: str) -> None:
    (bundle / name).write_bytes(DOCUMENTS[kind])
    if name != "torchless.json":
        seal(bundle)
    if (name, kind) == ("config.json", "many keys"):  # none that means anything, and no more memory than is allowed
        outcome = open_it(bundle)
        assert (outcome.error, outcome.resident < RESIDENT) == (None, True)
    else:
        check_refused(open_it(bundle), says=r"\.json")


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_of_a_directory(layout: Path, open_it: Any, kind: str) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (layout / name).write_bytes(DOCUMENTS[kind])
    check_refused(open_it(layout), says=r"tokenizer.*\.json: ")


# Manifests.


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value in a document."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, child in value.items():
            yield from places(child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value[:1]):
            yield from places(child, (*path, index))


def changed(document: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """Return a copy of the document in which `change` was applied to the container at the end of `path`."""
    document = copy.deepcopy(document)
    parent = document
    for key in path[:-1]:
        parent = parent[key]
    change(parent, path[-1])
    return document


# For people to read: `torchless inspect` shows what is in them, and nothing else looks.
FREE = ("provenance", "parity", "quantization", "tuning")
WRONG: list[Any] = [None, True, -1, 1 << 62, 0.5, "", "../x", "\x1b[2J\n", "x" * 100_000, [], [[]], {}, {"a": {}}]


def test_every_field_missing_or_of_every_wrong_type(bundle: Path) -> None:
    """Some 600 manifests, each wrong in one place; in this process, since none gets as far as native code."""
    import torchless
    from torchless.errors import TorchlessError

    path = bundle / "torchless.json"
    whole = json.loads(path.read_bytes())
    tried, messages = 0, []
    for place in places(whole):
        if set(place) & set(FREE):
            continue
        documents = [changed(whole, place, lambda parent, key: parent.pop(key))]
        documents += [changed(whole, place, lambda parent, key, v=v: parent.__setitem__(key, v)) for v in WRONG]
        for document in documents:
            if document == whole:
                continue
            path.write_text(json.dumps(document), encoding="utf-8")
            tried += 1
            try:
                torchless.Bundle.open(bundle).read("tokenizer.json")
            except TorchlessError as error:
                messages.append(str(error))
    assert tried > 500
    assert all(message.isprintable() and len(message) <= 1000 for message in messages)
    assert len(messages) > tried * 0.75  # others are taken: a higher opset, another architecture's name


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(format="2.0"), "upgrade torchless"),
        (lambda m: m.update(format="9999.0"), "upgrade torchless"),
        (lambda m: m.update(format="0.1"), "1.0 or later"),
        (lambda m: m.update(format="1"), "format is"),
        (lambda m: m["variants"]["fp32"].update(files=["../secret"]), "a name listed in `files`"),
        (lambda m: m["files"].append(m["files"][0]), "each file once"),
        (lambda m: m["files"][0].update(path="../secret"), "a plain file name"),
        (lambda m: m["files"][0].update(path="/etc/passwd"), "a plain file name"),
        (lambda m: m["files"][0].update(path="a\\..\\b"), "a plain file name"),
        (lambda m: m["files"][0].update(path=".."), "a plain file name"),
        (lambda m: m["files"][0].update(path="nul\0"), "a plain file name"),
        (lambda m: m["files"][0].update(path="C:\\x"), "a plain file name"),
        (lambda m: m["variants"]["fp32"].update(session={"disabled_optimizers": [1]}), "a list of strings"),
        (lambda m: m["variants"]["fp32"]["output"].update(axes=["batch", "sequence", "hidden"]), "text-classification"),
        (lambda m: m["tokenizer"].update(pad_id=10**6), "vocab_size"),
        (lambda m: m["tokenizer"].update(inputs=["token_type_ids"]), "input_ids"),
    ],
)
def test_a_manifest_that_fits_the_files_and_lies(
    bundle: Path, open_it: Any, change: Callable[[Any], object], says: str
) -> None:
    edit(bundle / "torchless.json", change)
    check_refused(open_it(bundle), "BundleVersionError" if "upgrade" in says else "BundleError", says)


def test_a_task_that_does_not_exist(bundle: Path, open_it: Any) -> None:
    edit(bundle / "torchless.json", lambda manifest: manifest.update(task="\x1b]0;title\x07os.system"))
    check_refused(open_it(bundle), "InputError", "the task '.*' is unknown")


def test_what_a_newer_minor_version_adds_is_ignored(bundle: Path, open_it: Any) -> None:
    edit(bundle / "torchless.json", lambda m: m.update(format="1.9", added={"a": [1]}, command="rm -rf /"))
    assert open_it(bundle).error is None


# Labels.

HOSTILE_LABELS = ["<script>alert(1)</script>", "a\nb\x1b[31m\x00", "x" * 100_000, "", "ä👍‮", "=cmd|' /C calc'!A0"]


def test_labels_with_markup_and_control_characters_are_answers_as_any_other(bundle: Path, open_it: Any) -> None:
    """They are returned as they are: whoever shows them escapes them, as any text from elsewhere."""
    for label in HOSTILE_LABELS:

        def relabel(document: dict[str, Any], label: str = label) -> None:
            document["id2label"] = {"0": label, "1": "POSITIVE"}

        edit(bundle / "config.json", relabel)
        seal(bundle, lambda manifest, label=label: manifest.update(labels=[label, "POSITIVE"]))
        outcome = open_it(bundle)
        assert outcome.error is None, outcome
        assert repr(label)[:50] in outcome.answer or len(label) > 2000


@pytest.mark.parametrize("command", [["inspect"], ["run"], ["explain"]])
def test_labels_do_not_reach_a_terminal_as_escape_sequences(bundle: Path, command: list[str]) -> None:
    import subprocess
    import sys

    from untraced import UNTRACED

    label = "\x1b]0;owned\x07\x1b[2J"
    edit(bundle / "config.json", lambda config: config.update(id2label={"0": label, "1": label + "2"}))
    seal(bundle, lambda manifest: manifest.update(labels=[label, label + "2"], architecture=label))
    arguments = [*command, str(bundle), *(["a fine film"] if command != ["inspect"] else [])]
    done = subprocess.run(
        [sys.executable, "-m", "torchless", *arguments], capture_output=True, env=UNTRACED, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert b"owned" in done.stdout
    assert b"\x1b" not in done.stdout + done.stderr


TABLES: dict[str, Any] = {
    "short": {"0": "A"},
    "twice": {"0": "A", "1": "A"},
    "a gap": {"0": "A", "2": "B"},
    "from 1": {"1": "A", "2": "B"},
    "negative": {"-1": "A", "0": "B"},
    "huge": {"0": "A", "9" * 30: "B"},
    "no numbers": {"zero": "A", "one": "B"},
    "twice in other digits": {"0": "A", "00": "B"},
    "not strings": {"0": ["A"], "1": {"B": 1}},
    "a list": ["A", "B"],
    "many": {str(i): str(i) for i in range(100_000)},
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("kind", ["bundle", "layout"])
def test_label_tables(request: Any, open_it: Any, kind: str, table: str) -> None:
    folder = request.getfixturevalue(kind)
    edit(folder / "config.json", lambda config: config.update(id2label=TABLES[table]))
    if kind == "bundle":
        seal(folder)
    # A bundle's config that has no table at all is taken: its labels are the manifest's.
    if (kind, table) == ("bundle", "a list"):
        assert open_it(folder).error is None
    else:
        check_refused(open_it(folder), says="id2label|labels")
