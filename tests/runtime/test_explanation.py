"""An explanation prints the three steps as a table."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from torchless.explanation import Explanation

EXPLANATION = Explanation(
    text="so good",
    tokens=("[CLS]", "so\x1b[2J", "good", "a-token-wider-than-the-rest", ""),
    input_ids=np.array([101, 2061, 2204, 29999, 0]),
    attention_mask=np.array([1, 1, 1, 1, 0]),
    logits=np.array([-1.5, 2.25, 2.25], np.float32),
    scores=np.array([0.01, 0.495, 0.495], np.float32),
    labels=("bad\nvery", "good", "fine"),
    function="softmax",
    milliseconds={"preprocess": 0.123, "forward": 4.5678, "postprocess": 0.01},
)


def test_the_steps_stand_in_order_with_their_times():
    lines = str(EXPLANATION).split("\n")
    heads = [line for line in lines if line[0].isdigit()]
    assert heads == [
        "1 preprocess  0.12 ms: 5 tokens",
        "2 forward     4.57 ms: 3 logits",
        "3 postprocess 0.01 ms: softmax",
    ]
    assert len(lines) == 3 + 2 + 5 + 3


def test_each_token_has_its_id_and_mask():
    lines = str(EXPLANATION).split("\n")
    rows = [line.split() for line in lines[2:7]]
    assert rows[0] == ["[CLS]", "101", "1"]
    assert rows[1] == [r"so\x1b[2J", "2061", "1"]
    assert rows[4] == ["0", "0"]
    assert len({len(line) for line in lines[1:7]}) == 1  # the columns are aligned


def test_labels_are_ranked_and_ties_keep_their_order():
    lines = str(EXPLANATION).split("\n")[9:]
    assert [line.split() for line in lines] == [
        ["label", "logit", "score"],
        ["good", "2.2500", "0.495000"],
        ["fine", "2.2500", "0.495000"],
        ["bad", "very", "-1.5000", "0.010000"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_many_ties_keep_their_order():
    labels = tuple(f"label-{i}" for i in range(50))
    scores = np.resize(np.array([0.5, 0.25], np.float32), 50)
    printed = str(dataclasses.replace(EXPLANATION, labels=labels, logits=scores, scores=scores))
    order = [line.split()[0] for line in printed.split("\n")[-50:]]
    assert order == [*labels[::2], *labels[1::2]]


def test_nothing_printed_reaches_the_terminal_as_a_command():
    assert all(line.isprintable() for line in str(EXPLANATION).split("\n"))


def test_it_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        EXPLANATION.function = "none"
