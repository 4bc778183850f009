"""L5: the report page in a real browser: nothing overflows on a phone, nothing is fetched, nothing goes wrong."""

import json
import os
import re
import shutil
import subprocess
from html import unescape

import pytest

from actprune.lab.report.html import write
from actprune.lab.report.style import brief
from support import run_folders as folders

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom",
)  # fmt: skip
LIGHT, DARK = 1, 0  # --blink-settings=preferredColorScheme

MEASURE = """
<script>
  const root = document.documentElement, found = {};
  found.overflow = root.scrollWidth - root.clientWidth;
  found.width = root.clientWidth;
  found.paper = getComputedStyle(document.body).backgroundColor;
  const every = [...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll, pre, svg, .skip"));
  const wide = every.filter(e => e.getBoundingClientRect().right > root.clientWidth + 0.5);
  found.outside = wide.map(e => e.outerHTML.slice(0, 80));
  found.fetched = performance.getEntriesByType("resource").map(e => e.name).filter(name => !name.startsWith("data:"));
  const plots = [...document.querySelectorAll("svg.plot")].filter(plot => plot.getBoundingClientRect().width);
  const texts = plots.flatMap(plot => [...plot.querySelectorAll("text")].map(text => [plot, text]));
  found.plots = plots.length;
  found.smallest = Math.min(...texts.map(([plot, text]) =>
    parseFloat(getComputedStyle(text).fontSize) * plot.getBoundingClientRect().width / plot.viewBox.baseVal.width));
  found.cut = texts.filter(([, text]) => {
    const box = text.getBoundingClientRect();
    return box.left < -1 || box.right > root.clientWidth + 1;
  }).map(([, text]) => text.textContent);
  found.said = plots.map(plot => plot.getAttribute("aria-label"));
  found.words = texts.map(([, text]) => text.textContent);
  const ink = () => texts.length && getComputedStyle(texts[0][1]).fill;
  found.images = [...document.querySelectorAll("svg image")].map(image => image.getBoundingClientRect().width);
  const button = document.getElementById("theme"), themes = [];
  for (let i = 0; i < 3; i++) { button.click(); themes.push([getComputedStyle(document.body).backgroundColor, ink()]); }
  found.themes = themes;
  parent.postMessage(JSON.stringify(found), "*");
</script>
"""
# A frame, since a browser's window is never as narrow as a phone.
FRAME = """<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark"><title>frame</title>
<iframe src="copy.html" style="width: 390px; height: 900px; border: 0"></iframe><pre id="measured"></pre>
<script>
  addEventListener("message", event => { document.getElementById("measured").textContent = event.data; });
</script>
"""


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """Open a copy of a page that measures itself; returns what it found and what the browser complained about."""
    if BROWSER is None:
        stop = pytest.fail if os.environ.get("ACTPRUNE_REQUIRE_DATA") else pytest.skip
        stop("chromium is not installed, so that the report page is not opened in a browser")

    def open_(page, scheme, more=""):
        place = tmp_path_factory.mktemp("browser")
        (place / "frame.html").write_text(FRAME)
        (place / "copy.html").write_text(page.read_text().replace("</body>", f"{more}{MEASURE}</body>"))
        command = [
            BROWSER, *FLAGS, "--window-size=800,1200", f"--blink-settings=preferredColorScheme={scheme}",
            f"--user-data-dir={place / 'profile'}", (place / "frame.html").as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        measured = re.search(r'<pre id="measured">(.+?)</pre>', done.stdout, re.DOTALL)
        assert measured, done.stderr[-2000:]
        complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return json.loads(unescape(measured[1])), complaints

    return open_


def check(found, complaints, scheme):
    """What holds for every page."""
    light, dark = "rgb(255, 255, 255)", "rgb(20, 23, 27)"
    themes = [(light, "rgb(89, 97, 107)"), (dark, "rgb(163, 171, 181)")]  # the page, and a chart's letters on it
    assert complaints == []
    assert found["fetched"] == []
    assert found["outside"] == []
    assert (found["width"], found["overflow"]) == (390, 0)
    assert found["paper"] == (light if scheme == LIGHT else dark)
    system = themes[0] if scheme == LIGHT else themes[1]
    assert [tuple(pair) for pair in found["themes"]] == [*themes, system]  # light, dark, and again as the system has it
    assert found["plots"]
    assert found["smallest"] >= 10  # pixels of a plot's letters
    assert found["cut"] == []
    assert all(found["said"])
    assert all(width > 50 for width in found["images"])


def test_a_run_on_a_phone(tmp_path, browse):
    long = "a_very_long_name_without_any_place_to_break_it_" * 4
    layers = [*folders.LAYERS, {**folders.LAYERS[1], "name": long}]
    result = folders.summary(layers=layers, remark=long, prunings_done=1)
    place = folders.write_run(tmp_path / "one", settings=folders.config(data=long), result=result)
    found, complaints = browse(write(place), LIGHT)
    check(found, complaints, LIGHT)
    assert found["said"][0].endswith("at the end training 92.50\xa0%, validation 90.00\xa0%, 105.00\xa0% removed")
    assert "training, last 92.50 %" in found["words"]
    assert len(found["images"]) == 1


def test_several_seeds_on_a_phone_in_the_dark(tmp_path, browse):
    place = folders.write_seeds(tmp_path / "s", [folders.summary(), folders.summary(), None])
    check(*browse(write(place), DARK), DARK)


def test_a_comparison_on_a_phone_shows_values_as_text(tmp_path, browse):
    rows = [
        *folders.trials(),
        *[folders.trial(folders.HOSTILE, s, seed, 0.99) for s in (0.9, 0.98) for seed in range(3)],
    ]
    found, complaints = browse(write(folders.write_compare(tmp_path / "c", rows)), LIGHT)
    check(found, complaints, LIGHT)
    assert f"98\xa0%: {folders.HOSTILE} 99.00\xa0%" in found["said"][0]
    assert brief(folders.HOSTILE) in found["words"]


def test_the_browser_would_have_told_of_a_fetch_and_of_an_error(tmp_path, browse):
    page = write(folders.write_compare(tmp_path / "c", folders.trials()))
    bad = '<img src="http://192.0.2.1/x.png"><div style="width: 600px">wide</div><script>throw new Error("no")</script>'
    found, complaints = browse(page, LIGHT, more=bad)
    assert any("Content Security Policy" in line for line in complaints)
    assert any("Error: no" in line for line in complaints)
    assert found["overflow"] > 0
    assert found["outside"]
