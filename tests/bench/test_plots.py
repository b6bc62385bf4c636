"""`torchless_bench.plots`: figures of a document."""

from __future__ import annotations

import importlib.util
import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchless.errors import InputError
from torchless_bench import plots

drawn = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")


@pytest.fixture(scope="module")
def figures(recorded):
    return plots.figures(recorded)


@drawn
def test_all_of_them_where_all_was_measured(figures):
    assert [plot.name for plot, _ in figures] == [plot.name for plot in plots.PLOTS]


@drawn
def test_they_are_png_files_of_a_useful_size_and_not_blank(figures):
    import matplotlib.image

    for plot, png in figures:
        pixels = matplotlib.image.imread(io.BytesIO(png))
        assert pixels.shape[0] >= 600, plot.name
        assert pixels.shape[1] >= 1200, plot.name
        assert (pixels[:, :, :3].max(axis=2) < 0.5).sum() > 2000, plot.name  # ink: axes and letters
        # A margin is left: nothing is cut off at the edges.
        edges = [pixels[:2, :, :3], pixels[-2:, :, :3], pixels[:, :2, :3], pixels[:, -2:, :3]]
        assert all(edge.min() == 1 for edge in edges), plot.name


@drawn
def test_what_was_not_measured_is_not_drawn(recorded):
    empty = recorded | {
        "workloads": [row for row in recorded["workloads"] if row["name"] == "texts"],
        "devices": {"grid": [], "crossover": [], "prices": {}},
        "limits": recorded["limits"] | {"reached": []},
    }
    assert [plot.name for plot, _ in plots.figures(empty)] == ["sentences"]


def test_without_matplotlib(recorded, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for call in (plots.check, lambda: plots.figures(recorded)):
        with pytest.raises(InputError, match=r"need matplotlib: pip install 'torchless\[bench\]'"):
            call()


@given(st.lists(st.floats(0, 1), max_size=12).map(sorted), st.floats(0.001, 0.2))
def test_names_are_moved_apart_and_no_farther_than_they_must(places, gap):
    found = plots.spread_apart(places, gap)
    assert len(found) == len(places)
    assert all(b - a >= gap - 1e-9 for a, b in itertools.pairwise(found))
    if all(b - a >= gap for a, b in itertools.pairwise(places)):
        assert found == pytest.approx(places)
    assert sum(found) == pytest.approx(sum(places))  # each block stays around its middle


def test_every_family_has_a_colour_of_its_own():
    from torchless_bench.contenders import CONTENDERS

    families = {row.family for row in CONTENDERS if "forward" in row.kinds}
    assert families == set(plots._COLOURS)
    assert len(set(plots._COLOURS.values())) == len(plots._COLOURS)
