"""Charts are well-formed SVG that shows what was tried."""

from __future__ import annotations

from xml.etree import ElementTree

from torchless_export import charts

TRIED = [
    {"name": "plain", "speed": 1.0, "expected_agreement": 0.987, "accepted": False},
    {"name": "fixed <&>", "speed": 0.97, "expected_agreement": 0.996, "accepted": True},
    {"name": "not timed", "expected_agreement": 0.9, "accepted": False},
    {"name": "fp32", "speed": 0.45},
]


def texts(chart: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(chart).iter() if node.tag.endswith("}text")]


def test_the_frontier_names_every_recipe_that_was_timed():
    chart = charts.frontier(TRIED, "fixed <&>", 0.99)
    shown = texts(chart)
    assert "2  fixed <&> (kept)" in shown
    assert "1  plain" in shown
    assert "3  fp32" in shown
    assert "asked: 0.99" in shown
    assert not any("not timed" in text for text in shown)
    circles = [node for node in ElementTree.fromstring(chart).iter() if node.tag.endswith("}circle")]
    assert len(circles) == 3
    across, down = ([float(node.get(key) or 0) for node in circles] for key in ("cx", "cy"))
    assert across[0] > across[1] > across[2]
    assert down[0] > down[1] > down[2]


def test_an_agreement_of_nothing_is_on_the_axis():
    shown = texts(charts.frontier(TRIED, "plain", 0.0))
    assert "0.0000" in shown
    assert not any(text.startswith("-") for text in shown)


def test_bars_are_as_long_as_what_they_show():
    rows = [{"group": "layer 0", "moved": 0.4}, {"group": "head", "moved": 0.1}, {"group": "none", "moved": 0.0}]
    chart = charts.sensitivity(rows)
    bars = [float(n.get("width") or 0) for n in ElementTree.fromstring(chart).iter() if n.get("class") == "b"]
    assert bars[0] == 4 * bars[1] > bars[2] == 0
    assert {"layer 0", "head", "none"} <= set(texts(chart))
    assert "<svg" in charts.sensitivity([{"group": "a", "moved": 0.0}])
