"""The field of a comparison: the same budget, steps and trials for everybody."""

import json

import pytest

from actprune.errors import CheckpointError, RecipeError
from actprune.lab import RunConfig, store
from actprune.lab.compare import BASELINES, Training, chosen, sweep, trials_of
from actprune.lab.compare.article import ERRORS, ROWS, pairs
from actprune.lab.compare.baselines import DENSE, LITERAL, available
from actprune.lab.compare.sizes import sizes_of
from actprune.lab.compare.sweep import NAME, rows_of
from actprune.lab.compare.trials import identity

QUICK = Training(epochs=4)
WHOLE_UNITS = {"activation-neuron", "apoz", "taylor"}  # a unit costs several weights
WITH_DEAD = {name for name in BASELINES if name.startswith("activation")}  # a dead weight may cost several


def planned(names=("magnitude-global",), sparsities=(0.9,), seeds=(0,), training=QUICK):
    baselines = [(baseline, sparsity) for sparsity in sparsities for baseline in chosen(names)]
    return trials_of(["digits"], ["lenet-300-100"], baselines, seeds, training)


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """Every baseline, once."""
    swept = sweep(planned(["all"]), tmp_path_factory.mktemp("field"))
    assert not swept.failed
    return {row["baseline"]: row for row in swept.rows}


def test_all_baselines_train_the_same_steps_unless_their_row_says_otherwise(field):
    budget = 4 * sizes_of("digits", "lenet-300-100").steps(QUICK.batch_size)
    assert set(field) == {"dense", *available()}
    for name, row in field.items():
        lengths = 1 if name == "dense" else BASELINES[name].lengths
        assert row["status"] == "ok", row["reason"]
        assert row["steps"] == budget * lengths, name
        assert row["steps_relative"] == lengths
        assert lengths == 1 or f"{lengths}x the steps" in row["note"]


def test_everybody_ends_with_the_same_number_of_weights_of_the_whole_network(field):
    whole = 64 * 300 + 300 * 100 + 100 * 10
    for name, row in field.items():
        wanted = whole if name == "dense" else round(0.1 * whole)
        assert row["weights"] == whole
        if name in WHOLE_UNITS | WITH_DEAD:
            assert wanted * (0.9 if name in WHOLE_UNITS else 0.995) <= row["kept"] <= wanted, name
        else:
            assert row["kept"] == wanted, name


def test_rows_are_flat_and_complete(field):
    for row in field.values():
        assert {"train_accuracy", "validation_accuracy", "test_accuracy", "compression", "flop_kept", "seconds",
                "cpu_seconds", "steps", "config", "id", "training"} <= set(row)  # fmt: skip
        assert row["compression"] == pytest.approx(row["weights"] / row["kept"])
        assert row["flop_kept"] == pytest.approx(row["kept"] / row["weights"])
    coded = field["deep-compression"]
    assert 0 < coded["storage_bytes"] < coded["dense_bytes"] / 10
    assert all(row["storage_bytes"] is None for name, row in field.items() if name != "deep-compression")


def test_a_trial_is_its_whole_configuration_and_not_its_label():
    (_, one), (_, other) = planned(), planned(training=Training(epochs=4, lr=QUICK.lr / 2))
    assert one.id != other.id
    assert len({trial.id for trial in planned(["all"], (0.9, 0.95), (0, 1))}) == 2 * (1 + 2 * len(available()))
    assert planned()[1].id == one.id


def test_a_field_that_run_config_gains_later_does_not_change_old_identities():
    config = planned()[1].config
    grown = type("Grown", (RunConfig,), {"__annotations__": {"later": int}, "later": 3})
    assert "later" not in identity(config)
    assert "full_length" in identity(config)  # differs from its default
    assert grown.model_fields["later"].default == 3


def test_trials_come_seed_by_seed_with_the_dense_references_first():
    trials = planned(["magnitude-global", "snip"], (0.9, 0.95), (3, 1))
    order = [(trial.seed, trial.baseline.name, trial.sparsity) for trial in trials]
    assert order[:5] == [(3, "dense", 0.0), (3, "magnitude-global", 0.9), (3, "snip", 0.9),
                         (3, "magnitude-global", 0.95), (3, "snip", 0.95)]  # fmt: skip
    assert [seed for seed, *_ in order] == [3] * 5 + [1] * 5


def test_a_sparsity_that_leaves_nothing_but_the_output_layer_is_refused_not_crashed(tmp_path):
    trials = planned(["activation", "magnitude-global"], (0.985,))
    swept = sweep(trials, tmp_path)
    rows = {row["baseline"]: row for row in swept.rows}
    assert rows["magnitude-global"]["status"] == "ok"
    assert rows["activation"]["status"] == "refused"
    assert "output layer" in rows["activation"]["reason"]
    assert not swept.failed


def test_a_method_that_refuses_is_a_result(tmp_path):
    swept = sweep(planned(["activation-neuron"], (0.979,)), tmp_path)
    row = swept.rows[-1]
    assert row["status"] == "refused"
    assert "BudgetError" in row["reason"] or "LayerCollapseError" in row["reason"]


def test_unknown_names_get_the_nearest_match():
    with pytest.raises(RecipeError, match="did you mean 'lottery-late'"):
        chosen(["lotery-late"])
    assert chosen(["snip", "all"])[0].name == "snip"
    assert len(chosen(["snip", "all"])) == len(available())


def test_training_needs_an_epoch_to_recover():
    with pytest.raises(RecipeError, match="at least 2"):
        Training(epochs=1)
    with pytest.raises(RecipeError, match="--batch-size 0 cannot be used"):
        Training(batch_size=0)


@pytest.mark.parametrize("epochs", [2, 3, 5, 7, 12, 20])
def test_every_baseline_can_be_planned_for_any_budget(epochs):
    trials = planned(["all", LITERAL.name], training=Training(epochs=epochs))
    assert {trial.config.max_epochs for trial in trials if trial.baseline.lengths == 1} == {epochs}


def test_the_articles_rows():
    found = {(baseline.name, sparsity) for baseline, sparsity in pairs(None, None)}
    printed = {("activation", 0.9894), ("activation-layer", 0.9894), ("activation-literal", 0.9), ("han", 0.92),
               ("deep-compression", 0.92), ("dns", 0.982), ("lottery", 0.865),
               ("variational-dropout", 0.8603)}  # fmt: skip
    assert printed <= found
    assert {(row.baseline, 0.9894) for row in ROWS} <= found
    assert {s for _, s in pairs(None, [0.7])} == {0.7}
    assert [baseline.name for baseline, _ in pairs(chosen(["han"]), None)] == ["han", "han"]
    assert "68x" in ERRORS


# ---- the file ------------------------------------------------------------------------------------------------------


def line(identity):
    """The least that a row has."""
    return {"id": identity, "data": "digits", "model": "mlp", "baseline": "lamp", "seed": 0, "target": 0.9,
            "training": "4 epochs", "status": "refused"}  # fmt: skip


def test_a_last_line_cut_short_is_left_out_and_mended(tmp_path):
    store.append(tmp_path / NAME, line("a"))
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes() + b'{"id": "b", "te')
    assert [row["id"] for row in rows_of(tmp_path)] == ["a"]
    store.mend(tmp_path / NAME)
    store.append(tmp_path / NAME, line("c"))
    assert [row["id"] for row in rows_of(tmp_path)] == ["a", "c"]


def test_a_last_line_that_only_lacks_its_end_is_kept(tmp_path):
    (tmp_path / NAME).write_text(json.dumps(line("a")))
    store.mend(tmp_path / NAME)
    store.append(tmp_path / NAME, line("b"))
    assert [row["id"] for row in rows_of(tmp_path)] == ["a", "b"]


def test_damage_elsewhere_is_named(tmp_path):
    (tmp_path / NAME).write_text(f'{json.dumps(line("a"))}\n{{"id"\n{json.dumps(line("c"))}\n')
    with pytest.raises(CheckpointError, match="line 2 is damaged"):
        rows_of(tmp_path)


@pytest.mark.parametrize("damaged", ["[]", "5", "{}", '{"id": "x", "status": "ok"}'])
def test_a_line_that_is_no_row_is_named(tmp_path, damaged):
    (tmp_path / NAME).write_text(damaged + "\n")
    with pytest.raises(CheckpointError, match=r"line 1 is damaged: .*(object|missing).*delete this line"):
        rows_of(tmp_path)


def test_the_dense_reference_is_there_without_asking():
    trials = planned(["snip"], (0.9,), (0, 1))
    assert [trial.seed for trial in trials if trial.baseline is DENSE] == [0, 1]
