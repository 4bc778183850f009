"""L5: parts of the report page: comparisons, the command to repeat a run, charts in the page, contrast."""

import base64
import io
import re
import shlex
from importlib.resources import files
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.image import imread
from typer.main import get_command
from typer.testing import CliRunner

from actprune.lab import RunConfig
from actprune.lab.cli.main import app
from actprune.lab.report import words as w
from actprune.lab.report.field import fields
from actprune.lab.report.heatmaps import described, heat_maps
from actprune.lab.report.html import command, page_of, write
from actprune.lab.report.plots import neurons, seed_curves, survival
from actprune.lab.report.style import PANEL, THEME, inline
from support import run_folders as folders


def test_a_comparison_names_leaders_and_says_where_no_lead_is_clear(tmp_path):
    page = page_of(folders.write_compare(tmp_path / "c", folders.trials()))
    assert page.sentences[0].startswith("2 baselines at 2 sparsities from 90\xa0% to 98\xa0%, lenet-300-100 on mnist")
    assert "lamp at 90\xa0% (98.30\xa0%)" in page.sentences[1]
    assert "98.40\xa0% dense" in page.sentences[1]
    assert "activation is clearly behind the best: by 0.80 points at 90\xa0% (place 2 of 2)" in page.sentences[2]
    assert any("nobody can be called the winner: at 98" in note for note in page.notes)
    assert page.badge == "complete"


def test_refused_missing_and_longer_trials_are_said(tmp_path):
    found = [row for row in folders.trials() if row["baseline"] != "lamp" or row["target"] != 0.98]
    found += [folders.trial("lottery", s, seed, 0.97, steps_relative=5.0) for s in (0.9, 0.98) for seed in range(3)]
    refused = {"status": "refused", "reason": "BudgetError: <b>too much</b>", "test_accuracy": None}
    found.append(folders.trial("apoz", 0.98, 0, 0.0, **refused))
    page = page_of(folders.write_compare(tmp_path / "c", found))
    said = " ".join([page.sentences[2], *page.notes])
    for text in ("lottery (5.0x)", "apoz at 98", "lamp at 98\xa0% (0 of 3 seeds)"):
        assert text in said
    assert page.badge == "some trials missing"
    text = write(tmp_path / "c").read_text()
    assert "&lt;b&gt;too much&lt;/b&gt;" in text
    assert "<b>" not in text


def test_validation_that_disagrees_with_test_is_said(tmp_path):
    found = [
        {**row, "validation_accuracy": 0.99} if row["baseline"] == "activation" else row for row in folders.trials()
    ]
    page = page_of(folders.write_compare(tmp_path / "c", found))
    assert any("y validation accuracy one would have picked another baseline: activation" in n for n in page.notes)


def test_two_data_sets_get_sections_of_their_own(tmp_path):
    page = page_of(folders.write_compare(tmp_path / "c", [*folders.trials(), *folders.trials(data="digits")]))
    titles = [section.title for section in page.sections]
    assert titles[0] == "Ahead"
    assert "Accuracy, digits, lenet-300-100" in titles
    assert page.title == "lenet-300-100 on mnist and digits"
    assert len(page.commands) == 2


@pytest.mark.parametrize("found", [[], [{}], [{"baseline": folders.HOSTILE, "target": "0.9"}], [folders.trials()[0]]])
def test_an_empty_or_odd_comparison_still_gives_a_page(tmp_path, found):
    text = write(folders.write_compare(tmp_path / "c", found)).read_text()
    assert "no finished trial" in text
    assert folders.HOSTILE not in text


def test_hostile_names_in_a_comparison_are_text(tmp_path):
    bad = folders.HOSTILE
    found = folders.trials(data=bad, model=bad, note=bad, training=bad)
    found += [{**row, "baseline": bad, "reason": bad} for row in found]
    text = write(folders.write_compare(tmp_path / "c", found)).read_text()
    assert bad not in text
    assert text.count("<script>") == 1


def test_a_later_row_of_the_same_trial_counts():
    field = fields([folders.trial("lamp", 0.9, 0, 0.5), folders.trial("lamp", 0.9, 0, 0.6)])[0]
    assert field.at("lamp", 0.9).test == 0.6


def test_who_kept_more_than_asked_or_lacks_seeds_does_not_lead():
    lamp = [folders.trial("lamp", 0.9, seed, 0.9, weights=1000) for seed in range(3)]
    apoz = [folders.trial("apoz", 0.9, seed, 0.95, weights=1000, kept=300, actual=0.7) for seed in range(3)]
    field = fields([*lamp, *apoz, folders.trial("snip", 0.9, 0, 0.99, weights=1000)])[0]
    assert field.ranking(0.9) == [("lamp", pytest.approx(0.9))]


def test_seeds_of_an_older_recipe_are_left_out():
    old = [folders.trial("lamp", 0.9, seed, 0.9) for seed in range(3)]
    field = fields([*old, folders.trial("lamp", 0.9, 0, 0.5, config={"lr": 0.2, "seed": 0})])[0]
    assert [row["test_accuracy"] for row in field.at("lamp", 0.9).rows] == [0.5]


def test_the_command_gives_the_same_configuration_again(monkeypatch):
    config = RunConfig(
        data="mnist", hidden=(300, 100), model="mlp", method="magnitude", options={"scope": "layer"}, sparsity=0.95,
        max_epochs=7, restore_best=False, download=True, threads=1, seed=4, full_length=True, schedule="cubic",
    )  # fmt: skip
    seen = []
    monkeypatch.setattr("actprune.lab.cli.main.run", lambda wanted, *_, **__: seen.append(wanted))
    words = shlex.split(command.again(config.model_dump(mode="json")))
    CliRunner().invoke(app, [*words[1:], "--quiet", "--out", "x"])
    assert seen == [config]


def test_every_setting_has_a_flag():
    known = {flag for option in get_command(app).commands["run"].params for flag in option.opts + option.secondary_opts}
    for name, value in RunConfig(seed=1).model_dump(mode="json").items():
        if name != "options":
            changed = {"bool": not value, "NoneType": 1, "int": 7, "float": 0.5, "str": "x"}[type(value).__name__]
            words = shlex.split(command.again({name: changed}))
            if changed is not False:
                assert words[2] in known, f"{name}: {words}"


def test_no_paths_of_this_machine(tmp_path):
    settings = folders.config(data="/home/ada/sets/mine")
    text = write(folders.write_run(tmp_path / "one", settings=settings, result=folders.summary())).read_text()
    assert "/home/ada" not in text
    assert "--data mine" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (w.percent(0.12345), "12.35\xa0%"), (w.share(0.9894), "98.94\xa0%"), (w.points(-0.0123), f"{w.MINUS}1.23"),
        (w.points(1e-9), "0.00"), (w.points(0.5), "+50.00"), (w.seconds(3.21), "3.2\xa0s"),
        (w.seconds(125), "2\xa0min 05\xa0s"), (w.seconds(7500), "2\xa0h 05\xa0min"), (w.size(1234567), "1.23\xa0MB"),
        (w.times(10), "10.0x"), (w.percent(True), w.DASH), (w.with_spread([0.5]), "50.00\xa0%"),
        (w.listed(["a", "b", "c"]), "a, b and c"),
    ],
)  # fmt: skip
def test_numbers_in_words(text, wanted):
    assert text == wanted


def test_the_picture_of_weights_lies_in_the_page_with_clear_zeros():
    weight = np.array([[0, 1, -63], [5, 0, 0], [0, 0, 0]], float)
    text = inline(heat_maps({"": {"fc1": weight}}, width=PANEL), "c1", "a picture")
    (data,) = re.findall(r'href="data:image/png;base64,([^"]+)"', text)
    pixels = imread(io.BytesIO(base64.b64decode(data)))
    assert pixels.shape == (3, 3, 4)
    assert ((pixels[..., 3] > 0.3) == (weight != 0)).all()  # zeros are clear, the smallest weight is not
    assert pixels[0, 2, 3] > pixels[1, 0, 3]
    assert described(weight) == "3 x 3, 66.67 % zero, 1 of 3 rows empty"


def test_an_embedded_chart_has_ids_of_its_own_and_no_colour_that_the_page_does_not_set():
    steps = [{"fc1": [3, 2, 0]}, {"fc1": [1, 0, 0]}]
    first, again, other = (inline(neurons(steps, width=PANEL), name, "<kept> & left") for name in ("a", "a", "b"))
    assert first == again  # the same bytes
    ids = [set(re.findall(r'id="([^"]+)"', text)) for text in (first, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert set(re.findall(r"url\(#([^)]+)\)", first)) | set(re.findall(r'href="#([^"]+)"', first)) <= ids[0]
    assert not re.search("#[0-9a-f]{6}|<style|https?:|20[0-9]{2}-", first)
    assert 'role="img" aria-label="&lt;kept&gt; &amp; left"' in first
    assert "var(--r1)" in first


def test_no_tick_is_written_in_a_language_of_formulas(tmp_path):
    text = write(folders.write_run(tmp_path / "one", result=folders.summary())).read_text()
    assert "math" not in text


@pytest.mark.parametrize("name", ["_hidden", "$x_1$", "\x00\x1b", "\ud800", "层", folders.HOSTILE, "long" * 60])
def test_odd_names_are_text_in_a_chart(name):
    ElementTree.fromstring(inline(seed_curves({name: [(1, 0.5), (2, 0.6)]}, {}), "c1", "label"))
    text = inline(survival([{name: [1, 2]}], fan_in={name: 3}), "c1", "label")
    assert "<script>" not in text
    if name in ("_hidden", "$x_1$"):
        assert name in text


def test_the_colours_of_the_charts_are_those_of_the_light_page():
    css = (files("actprune.lab.report.html") / "templates" / "page.css").read_text()
    light = {f"--{name}": colour for name, colour in re.findall(r"--([\w-]+): light-dark\((#\w+),", css)}
    assert {variable: light[variable] for variable in THEME.values()} == {v: k for k, v in THEME.items()}


def test_text_and_lines_stand_out_from_the_page_in_both_themes():
    css = (files("actprune.lab.report.html") / "templates" / "page.css").read_text()
    found = re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", css)
    for theme in (0, 1):
        colour = {name: _luminance(pair[theme]) for name, *pair in found}
        for name in ("ink", "muted", "accent", "bad"):
            assert _contrast(colour[name], colour["paper"]) >= 4.5
            assert _contrast(colour[name], colour["panel"]) >= 4.5
        for name in ("good", "warn", "bad"):
            assert _contrast(colour[name], colour[f"{name}-wash"]) >= 4.5
        for name in ("s1", "s2", "s3", "s4", "s5", "s6", "s7", "r8"):
            assert _contrast(colour[name], colour["paper"]) >= 3


def _luminance(text):
    """Source: WCAG 2.2, relative luminance."""
    digits = text[1:] if len(text) == 7 else "".join(2 * c for c in text[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def _contrast(a, b):
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)
