"""`torchless_bench.page`: one file that needs nothing else, and that a browser shows."""

from __future__ import annotations

import base64
import importlib.util
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from torchless_bench import page
from torchless_bench.plots import PLOTS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# It starts without a screen, asks nothing of the network, and leaves the user's own profile alone.
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync")  # fmt: skip

DRAWN = [(plot, b"\x89PNG not really") for plot in PLOTS]


class Elements(HTMLParser):
    """Counts what is in a page, and collects what it would fetch."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.sources: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_needs_nothing_else(recorded):
    text = page.html(recorded, DRAWN)
    found = Elements(text)
    assert not found.open
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    assert len(found.sources) == len(PLOTS)
    assert all(source.startswith("data:image/png;base64,") for source in found.sources)
    assert base64.b64decode(found.sources[0].partition(",")[2]) == DRAWN[0][1]
    assert "url(" not in text
    assert "@import" not in text


def test_has_all_that_the_document_has(recorded):
    text = page.html(recorded, [])
    for row in recorded["contenders"]:
        assert row["name"] in text
    for workload in recorded["workloads"]:
        assert f"<h2>{workload['name']}</h2>" in text
    assert text.count('class="met text"') + text.count('class="not-met text"') + text.count(
        'class="not-measured'
    ) == len(recorded["targets"])
    for part in ("At a glance", "Device by device", "What the machine allows", "the GPU wins", "not measured"):
        assert part in text
    assert "Cost of a million texts with cpu at 0.1 an hour; cuda at 2.5 an hour." in text


def test_names_from_outside_are_text(recorded):
    text = page.html(recorded | {"torchless": "<script>"}, [])
    assert "&lt;too&gt; long" in text
    assert "busy &amp; gone" in text
    assert "&lt;bundle&gt;" in text
    assert "<script" not in text


def test_parts_without_figures_are_left_out(recorded):
    bare = recorded | {
        "workloads": [], "targets": [], "left_out": [], "warnings": [], "source": None,
        "devices": {"grid": [], "crossover": [], "prices": {}},
        "limits": {"rates": {}, "graphs": {}, "reached": [], "problems": []},
    }  # fmt: skip
    text = page.html(bare, [])
    assert not Elements(text).open
    for part in ("At a glance", "Targets", "Device by device", "What the machine allows", "Left out"):
        assert part not in text
    assert "commit no checkout" in text


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
class TestWritten:
    def test_files(self, recorded, tmp_path):
        files = page.write(recorded, tmp_path / "a" / "b")
        assert [path.name for path in files] == ["report.html", *(f"{plot.name}.png" for plot in PLOTS)]
        assert all(path.read_bytes()[:4] == b"\x89PNG" for path in files[1:])
        assert Elements(files[0].read_text(encoding="utf-8")).tags.count("img") == len(PLOTS)

    @pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
    def test_a_browser_shows_it(self, recorded, tmp_path):
        import matplotlib.image

        files = page.write(recorded, tmp_path / "report")
        shot = tmp_path / "shot.png"
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,2400",
                   f"--screenshot={shot}", files[0].as_uri()]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        pixels = matplotlib.image.imread(shot)[:, :, :3]
        ink = pixels.max(axis=2) < 0.5
        assert ink[:200].sum() > 500, "no heading"
        # The first figure's colour of torchless, wide as a bar is: the image was decoded and shown.
        blue = (abs(pixels - (0, 0x72 / 255, 0xB2 / 255)) < 0.02).all(axis=2)
        assert blue.any(axis=0).sum() > 200
        assert ink[-400:].any(), "the page ends too soon"


def test_where_it_is_written_is_a_directory(recorded, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        page.write(recorded, Path(tmp_path / "file"))
