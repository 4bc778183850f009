"""What a comparison tells: tables, plot, and the sparsity at equal accuracy, from plain rows."""

import pytest

from actprune.lab.compare.aggregate import panels
from actprune.lab.report import compare
from actprune.lab.report.compare_plot import Curves, accuracy, look


def row(baseline, target, seed, test, validation=None, **more):
    kept = round((1 - target) * 10_000)
    return {
        "id": f"{baseline}-{target}-{seed}", "data": "digits", "model": "mlp", "training": "20 epochs, lr 0.05",
        "baseline": baseline, "target": target, "seed": seed, "status": "ok", "reason": None, "weights": 10_000,
        "kept": kept, "actual": target, "compression": 10_000 / kept, "flop_kept": kept / 10_000,
        "steps_relative": 1.0,
        "test_accuracy": test, "validation_accuracy": test if validation is None else validation, "cpu_seconds": 12.0,
        "storage_bytes": None, "dense_bytes": 40_000, **more,
    }  # fmt: skip


def refused(baseline, target, seed):
    short = {key: value for key, value in row(baseline, target, seed, 0).items() if not key.endswith("accuracy")}
    return {**short, "status": "refused", "reason": "LayerCollapseError: fc1 would be emptied"}


DENSE = [row("dense", 0.0, seed, test) for seed, test in enumerate((0.98, 0.982, 0.984))]
ROWS = [
    *DENSE,
    *[row("lamp", 0.9, seed, test) for seed, test in enumerate((0.979, 0.981, 0.980))],
    *[row("snip", 0.9, seed, test) for seed, test in enumerate((0.9795, 0.9790, 0.9792))],
    *[row("random", 0.9, seed, test) for seed, test in enumerate((0.95, 0.951, 0.952))],
    *[row("lamp", 0.98, seed, test) for seed, test in enumerate((0.96, 0.961, 0.962))],
    *[refused("snip", 0.98, seed) for seed in range(3)],
]


def table(rows=ROWS):
    (panel,) = panels(rows)
    head, *body = compare.lines(panel)
    return head, {line[0]: line[1:] for line in body}


def test_mean_spread_change_best_and_ties():
    head, body = table()
    assert head[2:] == ["90 %  (10x)", "98 %  (50x)"]
    assert body["lamp"][1] == "**98.00 ± 0.10 (-0.20)**"
    assert body["snip"][1].startswith("=97.92 ± 0.03")
    assert body["random"][1] == "95.10 ± 0.10 (-3.10)"
    assert body["snip"][2] == "refused (3)"
    assert list(body) == ["lamp", "random", "snip"]  # the order of the field, not that of finishing


def test_a_baseline_that_kept_more_than_asked_cannot_win():
    rows = [*ROWS, *[row("apoz", 0.9, seed, 0.99, kept=1500, actual=0.85) for seed in range(3)]]
    _, body = table(rows)
    assert body["lamp"][1].startswith("**")
    assert body["apoz"][1] == "99.00 ± 0.00 (+0.80) (kept 15.00 %)"


def test_missing_seeds_are_said_and_do_not_win():
    _, body = table([*ROWS, row("wanda", 0.9, 0, 0.999)])
    assert body["wanda"][1] == "99.90 (+1.70) (n=1)"
    assert body["lamp"][1].startswith("**")


def test_of_two_lines_for_a_changed_recipe_the_later_counts():
    _, body = table([*ROWS, *[row("random", 0.9, seed, 0.5, id=f"new-{seed}") for seed in range(3)]])
    assert body["random"][1].startswith("50.00")


def test_seeds_of_an_older_recipe_are_not_averaged_with_those_of_a_newer_one():
    old = [row("lamp", 0.9, seed, 0.9, config={"lr": 0.1, "seed": seed}) for seed in range(3)]
    (group,) = panels([*old, row("lamp", 0.9, 0, 0.5, config={"lr": 0.2, "seed": 0})])[0].groups
    assert [found["test_accuracy"] for found in group.rows] == [0.5]
    assert len(panels([*old, row("lamp", 0.9, 3, 0.5, config={"lr": 0.1, "seed": 3})])[0].groups[0].rows) == 4


def test_sparsity_at_equal_accuracy_goes_by_validation_alone():
    rows = [
        *DENSE,
        *[row("lamp", 0.9, seed, 0.97, validation=0.981) for seed in range(3)],  # test is worse, validation equal
        *[row("lamp", 0.98, seed, 0.99, validation=0.97) for seed in range(3)],  # the other way round
        *[row("snip", 0.9, seed, 0.9) for seed in range(3)],
    ]
    (panel,) = panels(rows)
    found = panel.equal("lamp", 0.005)
    assert found is not None
    assert found.target == 0.9
    assert panel.equal("snip", 0.005) is None
    lines = compare.equal_lines(panel, 0.005)
    assert lines[1][:4] == ["lamp", "90 %", "10.0x", "1,000"]
    assert lines[2][:2] == ["snip", "none of those tried"]


def test_other_trainings_get_panels_of_their_own():
    longer = [{**line, "training": "40 epochs"} for line in ROWS]
    assert [panel.training for panel in panels([*ROWS, *longer])] == ["20 epochs, lr 0.05", "40 epochs"]


def test_the_files(tmp_path):
    rows = [*ROWS, *[row("han", 0.92, seed, 0.97) for seed in range(3)]]
    rows += [row("deep-compression", 0.92, seed, 0.97, storage_bytes=1000) for seed in range(3)]
    files = compare.write(panels(rows), tmp_path, 0.005, {"lamp": "gradual"}, article=True)
    assert [path.name for path in files] == ["table.md", "article.md", "accuracy.svg", "accuracy.png"]
    text = (tmp_path / "table.md").read_text()
    assert "dense: test 98.20 ± 0.20 %" in text
    assert "- lamp: gradual" in text
    assert "snip at 98 %: 3 of 3 refused: LayerCollapseError" in text
    article = (tmp_path / "article.md").read_text()
    assert "| Han 2015 | 92.00 | 12.5x | 800 | 8.00 | 97.00 ± 0.00 | -1.20 | - | 1x | 12 | 12x, 92 % |" in article
    assert "| Deep Compression | 92.00 | 12.5x | 800 | 8.00 | 97.00 ± 0.00 | -1.20 | 40.0x |" in article
    assert "storage after quantisation" in article


def test_the_plot_is_the_same_file_again(tmp_path):
    for name in ("a.svg", "b.svg"):
        accuracy([Curves.of(panel) for panel in panels(ROWS)], tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    for said in ("digits, mlp (20 epochs)", ">10x<", ">50x<", ">lamp<", ">snip<", ">random<", ">dense<"):
        assert said in text


def test_no_two_of_many_baselines_look_the_same():
    looks = [tuple(map(look(i).get, ("color", "marker"))) for i in range(35)]
    assert len(set(looks)) == 35


@pytest.mark.parametrize("rows", [DENSE, [*DENSE, refused("snip", 0.98, 0)], [row("lamp", 0.9, 0, 0.1)]])
def test_little_to_show_is_shown(tmp_path, rows):
    compare.write(panels(rows), tmp_path, 0.005, {}, article=True)
    assert (tmp_path / "table.md").exists()
    assert compare.article_text(panels(rows))
