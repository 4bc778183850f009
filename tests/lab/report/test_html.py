"""L5: the report page of runs and seeds: what it says, and that nothing from a file becomes HTML."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from typer.testing import CliRunner

from actprune.errors import CheckpointError
from actprune.lab.cli.main import app
from actprune.lab.report import words as w
from actprune.lab.report.html import page_of, write
from support import run_folders as folders


class Reader(HTMLParser):
    """Tags, attributes and the ids of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]


def read(text):
    reader = Reader()
    reader.feed(text)
    return reader


def test_a_finished_run_gets_a_verdict_of_three_sentences_and_all_sections(tmp_path):
    page = page_of(folders.write_run(tmp_path / "one", result=folders.summary()))
    assert len(page.sentences) == 3
    assert "19 of all 66 weights of the network are left" in page.sentences[0]
    assert f"95.20\xa0% just before the first pruning to 95.00\xa0% ({w.MINUS}0.20 points)" in page.sentences[1]
    assert (page.badge, page.tone) == ("sparsity reached", "good")
    assert [s.title for s in page.sections if not s.empty] == [
        "Training", "Layers", "Neurons", "Firing", "Spectra", "Weights",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "badge", "said"),
    [
        (
            {"actual": 0.4, "pruning_steps_done": 1, "remark": "1 of 2 pruning steps done"},
            "sparsity not reached",
            "1 of 2 pru",
        ),
        ({"actual": 0.6}, "sparsity not reached", "missed by 10.00 points"),
        ({"validation_accuracy": 0.90, "test_accuracy": 0.9}, "reached, accuracy fell", "fell by 5.20 points"),
        ({"test_accuracy": 0.90}, "sparsity reached", "differ by 5.00 points"),
        ({"validation_accuracy": 0.97, "test_accuracy": 0.97}, "sparsity reached", "training was not over"),
        ({"layers": [{**folders.LAYERS[0], "kept": 0}]}, "sparsity reached", "no weight is left in fc1"),
    ],
)
def test_the_verdict_says_what_went_wrong(tmp_path, changes, badge, said):
    page = page_of(folders.write_run(tmp_path / "one", result=folders.summary(**changes)))
    assert page.badge == badge
    assert said in page.sentences[2]


def test_a_run_without_accuracies_is_told_by_its_loss(tmp_path):
    gone = {"test_accuracy": None, "validation_accuracy": None, "dense": None}
    page = page_of(folders.write_run(tmp_path / "one", result=folders.summary(**gone)))
    assert "test loss of 0.2" in page.sentences[1]


def test_an_autoencoder_is_told_by_its_explained_variance(tmp_path):
    settings = folders.config(task="autoencode")
    page = page_of(folders.write_run(tmp_path / "one", settings=settings, result=folders.summary()))
    assert "has an explained variance of 95.10" in page.sentences[1]
    assert page.sections[0].charts[0].title.startswith("Explained variance")
    assert "ccuracy" not in " ".join([*page.sentences, *(card.label for card in page.cards)])


def test_an_unfinished_run_says_so_and_shows_what_there_is(tmp_path):
    page = page_of(folders.write_run(tmp_path / "one", epochs=3, tensors=False))
    assert page.badge == "not finished"
    assert "epoch 3 of at most 100, with 2 pruning steps done" in page.sentences[0]
    assert {s.title for s in page.sections if not s.empty} == {"Training", "Layers"}


def test_a_run_that_has_just_begun_still_gives_a_page(tmp_path):
    (tmp_path / "one").mkdir()
    folders.write(tmp_path / "one" / "config.json", folders.config())
    assert "no epoch is finished yet" in write(tmp_path / "one").read_text()


def test_damaged_parts_are_named_and_the_rest_is_shown(tmp_path):
    place = folders.write_run(tmp_path / "one", result=folders.summary())
    (place / "model.safetensors").write_bytes(b"\xff" * 40)
    (place / "recipe.json").write_text("{")
    with (place / "metrics.jsonl").open("a") as stream:
        stream.write('{"epoch": 5, "tr')
    page = page_of(place)
    assert len(page.problems) == 3
    assert {"Training", "Firing"} <= {s.title for s in page.sections if not s.empty}


@pytest.mark.parametrize("value", ["a text", None, True, [1], {"a": 1}, float("nan"), 10**400, -1])
def test_wrong_values_in_the_files_never_end_in_a_traceback(tmp_path, value):
    changes = dict.fromkeys(("target", "actual", "test_accuracy", "dense", "layers", "seconds", "epochs"), value)
    place = folders.write_run(tmp_path / "one", result=folders.summary(**changes))
    folders.write(place / "environment.json", {"torch": value})
    bad = {**folders.rows()[1], "train_accuracy": value, "sparsity": value, "pruning": value}
    (place / "metrics.jsonl").write_text("".join(folders.json.dumps(row) + "\n" for row in (bad, *folders.rows())))
    assert write(place).stat().st_size > 10_000


def test_what_comes_from_files_is_text(tmp_path):
    bad = folders.HOSTILE
    settings = folders.config(data=bad, model=bad, method=bad, options={bad: bad})
    result = folders.summary(method=bad, remark=f"{bad}`{bad}`", prunings_done=1)
    result["layers"] = [{**row, "name": bad, "shape": [bad]} for row in folders.LAYERS]
    place = folders.write_run(tmp_path / "<img src=x>", settings=settings, result=result)
    folders.write(place / "environment.json", {bad: bad})
    text = write(place).read_text()
    assert bad not in text
    assert "&lt;script&gt;" in text
    assert read(text).tags.count("script") == 1


def test_hostile_layer_names_in_tensor_files_are_text(tmp_path):
    place = folders.write_run(tmp_path / "one", result=folders.summary())
    name = '"><script>'
    counts = {"fired": np.arange(4), "rows": np.array(9), "kept": np.arange(4), "fan_in": np.array(5)}
    folders.save_file(
        {f"{name}/{k}": v for k, v in counts.items()}, place / "pruning_steps" / "pruning-step-03.safetensors"
    )
    assert read(write(place).read_text()).tags.count("script") == 1


def test_the_page_asks_for_nothing_from_outside(tmp_path):
    text = write(folders.write_run(tmp_path / "one", result=folders.summary())).read_text()
    reader = read(text)
    links = [value for _, name, value in reader.attributes if name in ("src", "href")]
    assert all(value.startswith(("data:", "#")) for value in links)
    assert not re.search(r"url\((?!#)|@import|https?://", text)
    policy = next(value for tag, _, value in reader.attributes if tag == "meta" and "default-src" in str(value))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'unsafe-inline'"


def test_a_long_training_stays_readable_and_small(tmp_path):
    place = folders.write_run(tmp_path / "one", result=folders.summary(), epochs=4000)
    noise = np.random.default_rng(0).normal(size=(700, 900)).astype(np.float32)
    folders.save_file({f"layer{i}.weight": noise for i in range(30)}, place / "model.safetensors")
    folders.write(place / "summary.json", folders.summary(layers=[]))
    page = page_of(place)
    assert page.sections[0].tables[0].caption == "302 of 4,000 epochs"  # those with a pruning are kept
    assert write(place).stat().st_size < 2_000_000


def test_links_inside_the_page_lead_somewhere_and_ids_are_unique(tmp_path):
    reader = read(write(folders.write_compare(tmp_path / "c", folders.trials())).read_text())
    ids = [value for _, name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {v[1:] for _, name, v in reader.attributes if name == "href" and v.startswith("#")} <= set(ids)


def test_several_seeds_show_mean_spread_and_each_seed(tmp_path):
    results = [folders.summary(test_accuracy=value) for value in (0.94, 0.95, 0.96)]
    page = page_of(folders.write_seeds(tmp_path / "s", results))
    assert "95.00\xa0±\xa01.00\xa0% of the test set" in page.sentences[1]
    assert (page.badge, page.commands[0].count("--seeds 0,1,2")) == ("sparsity reached", 1)
    assert [len(table.rows) for section in page.sections[:1] for table in section.tables] == [3]


def test_unfinished_seeds_are_said(tmp_path):
    page = page_of(folders.write_seeds(tmp_path / "s", [folders.summary(), None]))
    assert page.badge == "not finished"
    assert "1 of 2 seeds are finished" in page.sentences[2]
    assert page_of(folders.write_seeds(tmp_path / "none", [None])).badge == "not finished"


def test_a_folder_with_nothing_names_what_was_expected(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json.*seeds\.json.*results\.jsonl"):
        write(tmp_path)
    with pytest.raises(CheckpointError, match="no folder"):
        write(tmp_path / "nowhere")


def test_the_command_line_writes_the_page_where_it_is_told(tmp_path):
    place = folders.write_run(tmp_path / "one", result=folders.summary())
    assert CliRunner().invoke(app, ["report", str(place)]).exit_code == 0
    first = (place / "report.html").read_bytes()
    target = tmp_path / "else.html"
    assert CliRunner().invoke(app, ["report", str(place), "--out", str(target), "-q"]).output == ""
    assert target.read_bytes() == first  # and the same folder gives the same bytes
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert CliRunner().invoke(app, ["report", str(place), "--out", str(tmp_path)]).exit_code == 2
