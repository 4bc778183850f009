"""Settings of a run: what is wrong is named before anything is written."""

import pytest

import actprune
import actprune.lab
from actprune.errors import RecipeError
from actprune.lab import RunConfig
from support.runs import go, quick


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsity": 90}, r"sparsity=90 cannot be used; expected less than 1; .* write 0.9 for 90 %"),
        ({"sparsity": -0.1}, r"sparsity=-0.1 cannot be used; expected greater than or equal to 0"),
        (
            {"optimizer": "adamv"},
            r"optimizer='adamv' cannot be used; expected 'sgd', 'adam' or 'adamw'; did you mean 'adam",
        ),
        ({"lr": "fast"}, r"lr='fast' cannot be used; expected a valid number"),
        ({"lr": float("nan")}, r"lr=nan cannot be used"),
        ({"epochs": 3}, r"unknown run setting 'epochs'; did you mean 'max_epochs'"),
        ({"start_at": 0.95}, r"start_at=0.95 lies above retrain_to=0.9"),
        ({"hidden": (10, "x")}, r"hidden='x' cannot be used|hidden=.* cannot be used"),
        ({"batch_size": 0}, r"batch_size=0 cannot be used"),
    ],
)
def test_wrong_settings_name_field_value_and_remedy(changes, message):
    with pytest.raises(RecipeError, match=message):
        quick(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "activaton"}, "unknown method 'activaton'; did you mean 'activation'"),
        ({"options": {"scor": "neuron"}}, "unknown option of method activation 'scor'; did you mean 'score'"),
        ({"options": {"sparsity": 0.5}}, "a setting of the run itself"),
        (
            {"options": {"score": "neurons"}},
            "score of method activation: 'neurons' .* expected 'neuron' or 'neuron_weight'",
        ),
        ({"options": {"keep_at_least": "many"}}, "keep_at_least of method activation: 'many' .* a valid integer"),
        ({"options": {"unit": "neurons"}}, r"'neurons' cannot be used; expected .*'neuron', 'block\(1, 4\)'"),
        ({"options": {"unit": {"type": "Neurom"}}}, "did you mean 'Neuron'"),
        ({"schedule": "cubic", "pruning_steps": 9}, "pruning_steps <= cubic_epochs < max_epochs"),
        ({"data": "digit"}, "did you mean 'digits'"),
        ({"model": "mpl"}, "did you mean 'mlp'"),
        ({"model": "lenet-5-caffe", "hidden": None}, "at least 16x16"),
    ],
)
def test_what_does_not_exist_is_said_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(actprune.ActpruneError, match=message):
        go(tmp_path, **changes)
    assert not (tmp_path / "run").exists()


def test_a_network_with_sizes_of_its_own_is_not_called_by_a_famous_name():
    assert RunConfig().network == "article"
    assert RunConfig(hidden=(300, 100)).network == "mlp 300-100"
    assert RunConfig(hidden=(300, 200, 100, 50)).network == "article 300-200-100-50"  # it is the article's
    assert RunConfig(model="mlp", hidden=(8,)).network == "mlp 8"
    assert RunConfig(model="autoencoder", hidden=(8, 2, 8), task="autoencode").network == "autoencoder 8-2-8"
    stored = RunConfig(hidden=(300, 100)).model_dump(mode="json")
    assert RunConfig(**stored) == RunConfig(hidden=(300, 100))
    with pytest.raises(RecipeError, match=r"'lenet-300-100' has hidden layers \[300, 100\].*use model='mlp'"):
        RunConfig(model="lenet-300-100", hidden=(10,))
