"""The engine in a user's own loop: enforcement, schedules, copies, accumulation, AMP, ties, freezing, bad input."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import actprune
from actprune import Budget, Pruner, methods
from actprune.errors import BudgetError, CheckpointError, LayerCollapseError, ModelError, ObservationError, RecipeError
from actprune.recover import Reinitialise, Rewind
from actprune.schedules import AccuracyTriggered, Cubic, EqualSurvivors, OneShot
from actprune.testing import observe, small_data, small_net


def train(model, optimizer, steps=3, before_step=None):
    inputs, labels = small_data()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        if before_step:
            before_step()
        optimizer.step()


def pruned(recipe=None, **options):
    model = small_net()
    pruner = Pruner(model, recipe or methods.magnitude(0.5), **options)
    observe(pruner, model)
    pruner.prune()
    return model, pruner


def zeros_held(model, pruner):
    return all(not model.get_parameter(name)[~mask].any() for name, mask in pruner.masks.items())


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-4),
        lambda p: torch.optim.AdamW(p, lr=0.01),
        lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
    ],
    ids=["sgd momentum", "adamw", "rmsprop"],
)
def test_momentum_does_not_revive_pruned_weights(make):
    model = small_net()
    optimizer = make(model.parameters())
    pruner = Pruner(model, methods.magnitude(0.5)).attach(optimizer)
    train(model, optimizer)
    pruner.prune()
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer)
    assert zeros_held(model, pruner)
    assert not torch.equal(before["0.weight"], model.state_dict()["0.weight"])  # the survivors did move
    assert pruner.state.step == 6


def test_without_enforcement_momentum_does_revive_them():
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pruner = Pruner(model, methods.magnitude(0.5))
    train(model, optimizer)
    pruner.prune()
    train(model, optimizer)
    assert not zeros_held(model, pruner)


def test_several_optimizers_and_parameter_groups():
    model = small_net()
    first = torch.optim.SGD([{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.05}], lr=0.1)
    second = torch.optim.Adam([*model[4].parameters(), *model[6].parameters()])
    pruner = Pruner(model, methods.magnitude(0.5)).attach(first, second)
    pruner.prune()
    inputs, labels = small_data()
    nn.functional.cross_entropy(model(inputs), labels).backward()
    first.step()
    second.step()
    assert zeros_held(model, pruner)
    assert pruner.state.step == 1  # the first optimizer is the clock


def test_ema_copies_are_zeroed_too():
    model = small_net()
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = Pruner(model, methods.magnitude(0.5)).attach(optimizer, copies=(ema,))
    train(model, optimizer)
    ema.update_parameters(model)
    pruner.prune()
    assert zeros_held(ema.module, pruner)
    for _ in range(3):
        train(model, optimizer, steps=1)
        ema.update_parameters(model)
    assert zeros_held(ema.module, pruner)


def test_gradient_accumulation_counts_optimizer_steps_only():
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = Pruner(model, methods.magnitude(0.5)).attach(optimizer)
    inputs, labels = small_data()
    for part in range(4):
        nn.functional.cross_entropy(model(inputs[part::4]), labels[part::4]).backward()
        if part % 2:
            optimizer.step()
            optimizer.zero_grad()
    assert pruner.state.step == 2


def test_masked_gradients_stay_out_of_norm_clipping():
    model, pruner = pruned()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.attach(optimizer, mask_grads=True)
    seen = []

    def look():
        seen.append(all(not model.get_parameter(n).grad[~m].any() for n, m in pruner.masks.items()))

    train(model, optimizer, before_step=look)
    assert seen == [True] * 3
    pruner.detach()
    train(model, optimizer, steps=1, before_step=look)
    assert seen[-1] is False


def test_mixed_precision_and_a_skipped_step():
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    pruner = Pruner(model, methods.magnitude(0.5)).attach(optimizer)
    pruner.prune()
    inputs, labels = small_data()
    for step in range(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(inputs), labels)
        scaler.scale(loss * (math.inf if step == 1 else 1)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert zeros_held(model, pruner)
    assert pruner.state.step == 2  # the scaler skipped the overflowed step


def test_a_compiled_model_is_observed_and_held():
    model = small_net()
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.1)
    train(compiled, optimizer)
    pruner = Pruner(compiled, methods.activation(0.5)).attach(optimizer)
    observe(pruner, compiled)
    pruner.prune()
    train(compiled, optimizer)
    assert zeros_held(model, pruner)
    assert list(pruner.masks) == ["0.weight", "2.weight", "4.weight"]  # clean names, no _orig_mod


def test_counting_on_live_batches_of_a_compiled_model_says_it_is_deaf():
    model = small_net()
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.1)
    train(compiled, optimizer)
    pruner = Pruner(compiled, methods.activation(0.5, cycles=2)).attach(optimizer)
    train(compiled, optimizer)
    with pytest.raises(ObservationError, match="compile"):
        pruner.prune()


def test_counting_while_training_equals_counting_afterwards_when_weights_stand_still():
    inputs, _ = small_data()
    live_model, model = small_net(), small_net()
    live = Pruner(live_model, methods.activation(0.5, cycles=2))
    live.attach(torch.optim.SGD(live_model.parameters(), lr=0.0))
    train(live_model, torch.optim.SGD(live_model.parameters(), lr=0.0), steps=2)
    other = Pruner(model, methods.activation(0.5))
    for _ in range(2):
        observe(other, model)
    for name, sums in other.state.sums.items():
        assert torch.equal(sums["fired"], live.state.sums[name]["fired"])
    live.prune()
    live.prune()
    assert live.finished
    live_model(inputs)  # counting has ended with the last pruning
    assert int(live.state.sums["0.weight"]["rows"]) == 128


def test_live_counting_does_not_change_training():
    models = [small_net(), small_net()]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in models]
    Pruner(models[0], methods.activation(0.5, cycles=2)).attach(optimizers[0])
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_tied_weights_have_one_mask():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.second = nn.Linear(8, 8)
            self.second.weight = self.first.weight
            self.out = nn.Linear(8, 4)

        def forward(self, x):
            return self.out(torch.relu(self.second(torch.relu(self.first(x)))))

    model = Tied()
    pruner = Pruner(model, methods.activation(0.5, remove_orphans=False))
    with pruner.observe():
        model(torch.randn(6, 8))
    pruner.prune()
    assert list(pruner.masks) == ["first.weight"]
    assert int(pruner.state.sums["first.weight"]["rows"]) == 12  # both uses are counted
    assert not model.second.weight[~pruner.masks["first.weight"]].any()


def test_frozen_and_skipped_layers_are_left_alone():
    model = small_net()
    model[0].requires_grad_(False)
    assert list(Pruner(model, methods.magnitude(0.5)).layers) == ["2.weight", "4.weight", "6.weight"]
    assert "0.weight" in Pruner(model, methods.magnitude(0.5), include_frozen=True).layers
    assert list(Pruner(model, methods.magnitude(0.5), skip=["2", "6.weight"]).layers) == ["4.weight"]
    with pytest.raises(ModelError, match=r"nothing|match"):
        Pruner(model, methods.magnitude(0.5), skip=["encoder"])


def test_cubic_schedule_prunes_by_itself():
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    recipe = methods.magnitude(0.8, schedule=Cubic(begin=2, end=6, every=2))
    pruner = Pruner(model, recipe).attach(optimizer)
    seen = []
    for _ in range(8):
        train(model, optimizer, steps=1)
        seen.append(round(pruner.sparsity, 4))
    total = sum(p.numel() for n, p in model.named_parameters() if n in pruner.masks)
    assert seen[:3] == [0, 0, 0]
    assert seen[3] == round(math.floor(0.7 * total + 0.5) / total, 4)  # 0.8 (1 - 0.5^3)
    assert seen[5] == seen[7] == round(math.floor(0.8 * total + 0.5) / total, 4)
    assert pruner.finished


def test_equal_survivors():
    schedule = EqualSurvivors(cycles=3)
    kept = [1 - schedule.target(actprune.Progress(cycle=i), 0.875) for i in range(3)]
    assert kept == pytest.approx([0.5, 0.25, 0.125])


def test_accuracy_triggers_one_pruning_per_report():
    model = small_net()
    recipe = methods.magnitude(0.8, schedule=AccuracyTriggered(cycles=2, start=0.5, stop=0.9))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    pruner = Pruner(model, recipe).attach(optimizer)
    assert pruner.report_metric(0.49) is None
    assert pruner.due(0.95)
    assert pruner.report_metric(0.95) is not None
    train(model, optimizer)  # an old report does not trigger anything
    assert pruner.state.cycle == 1
    assert pruner.report_metric(0.69) is None
    assert pruner.report_metric(0.71).obtained == pytest.approx(0.8, abs=1e-3)
    assert pruner.finished
    assert pruner.report_metric(0.99) is None
    with pytest.raises(ObservationError, match="nan"):
        pruner.report_metric(float("nan"))


def test_rewinding_restores_early_weights_and_forgets_momentum():
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pruner = Pruner(model, methods.magnitude(0.5, recovery=Rewind(to_step=2))).attach(optimizer)
    train(model, optimizer, steps=2)
    early = copy.deepcopy(model.state_dict())
    train(model, optimizer, steps=3)
    pruner.prune()
    assert not optimizer.state
    for name, value in model.state_dict().items():
        mask = pruner.masks.get(name, torch.ones_like(value, dtype=torch.bool))
        assert torch.equal(value, early[name] * mask)


def test_rewinding_to_a_step_that_was_never_seen_is_refused():
    pruner = Pruner(small_net(), methods.magnitude(0.5, recovery=Rewind(to_step=5)))
    with pytest.raises(ModelError, match="rewind to step 5"):
        pruner.prune()


def test_reinitialised_survivors_are_new_and_the_rng_is_untouched():
    model = small_net()
    old = model[0].weight.detach().clone()
    pruner = Pruner(model, methods.magnitude(0.5, recovery=Reinitialise(seed=7)))
    before = torch.get_rng_state()
    pruner.prune()
    assert torch.equal(before, torch.get_rng_state())
    mask = pruner.masks["0.weight"]
    assert not (model[0].weight[mask] == old[mask]).any()
    assert zeros_held(model, pruner)


def test_regrow_free_lets_zeros_return_and_release_does_too():
    for recipe in (methods.activation(0.5, regrow="free"), methods.activation(0.5)):
        model = small_net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        pruner = Pruner(model, recipe).attach(optimizer)
        observe(pruner, model)
        pruner.prune()
        assert zeros_held(model, pruner)
        if recipe.regrow == "frozen":
            train(model, optimizer)
            assert zeros_held(model, pruner)
            pruner.release()
        train(model, optimizer)
        assert not zeros_held(model, pruner)


@pytest.mark.parametrize(
    ("budget", "kept"),
    [
        (Budget.compression(4), 328),
        (Budget.parameters(200), 200),
        (Budget.flop(0.25), 328),
        (Budget.sparsity(0.75), 328),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_budgets_in_every_currency(budget, kept):
    model = small_net()  # 768 + 384 + 128 + 32 = 1312 weights
    import dataclasses

    pruner = Pruner(model, dataclasses.replace(methods.magnitude(0.5), budget=budget))
    pruner.prune()
    assert sum(int(mask.sum()) for mask in pruner.masks.values()) == kept


def test_resume_gives_bit_identical_weights():
    def session(model, optimizer, pruner, epochs):
        for _ in range(epochs):
            train(model, optimizer)
            pruner.report_metric(0.95)

    def fresh():
        model = small_net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimizer, Pruner(model, methods.activation(0.8, cycles=3)).attach(optimizer)

    whole = fresh()
    session(*whole, 6)
    first = fresh()
    session(*first, 2)
    stored = copy.deepcopy([part.state_dict() for part in first])
    second = fresh()
    for part, state in zip(second, stored, strict=True):
        part.load_state_dict(state)
    session(*second, 4)
    assert whole[2].state.cycle == second[2].state.cycle == 3
    for name, value in whole[0].state_dict().items():
        assert torch.equal(value, second[0].state_dict()[name])
    assert not torch.equal(first[0].state_dict()["0.weight"], second[0].state_dict()["0.weight"])


def test_state_loads_without_pickle(tmp_path):
    _, pruner = pruned(methods.activation(0.5))
    torch.save(pruner.state_dict(), tmp_path / "state.pt")
    again = Pruner(small_net(), methods.activation(0.5))
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert all(torch.equal(mask, again.masks[name]) for name, mask in pruner.masks.items())


def test_a_state_of_another_model_or_version_is_refused():
    _, pruner = pruned()
    stored = pruner.state_dict()
    other = Pruner(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), methods.magnitude(0.5))
    with pytest.raises(CheckpointError, match=r"0\.weight"):
        other.load_state_dict(stored)
    with pytest.raises(CheckpointError, match="version"):
        other.load_state_dict({**stored, "version": 99})
    with pytest.raises(CheckpointError, match="step"):
        other.load_state_dict({name: value for name, value in stored.items() if name != "step"})


def test_bad_input_is_refused_and_changes_nothing():
    model = small_net()
    pruner = Pruner(model, methods.activation(0.9))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ObservationError, match="observe"):
        pruner.prune()
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    with pytest.raises(ObservationError, match="NaN"):
        observe(pruner, model)
    with pytest.raises(ModelError, match="NaN"):
        Pruner(model, methods.magnitude(0.5)).prune()
    with torch.no_grad():
        model[2].weight[0, 0] = before["2.weight"][0, 0]
    observe(pruner, model)
    for wrong in (-0.1, 1.0, 1.5, float("nan")):
        with pytest.raises(RecipeError):
            pruner.prune(wrong)
        with pytest.raises(RecipeError):
            methods.activation(wrong)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert pruner.state.cycle == 0
    assert not pruner.masks


def test_layer_collapse_is_refused_unless_allowed_by_name():
    import dataclasses

    model = small_net()
    with torch.no_grad():
        model[2].weight.mul_(1e-6)
    with pytest.raises(LayerCollapseError, match=r"2\.weight.*allow_collapse"):
        Pruner(model, methods.magnitude(0.6)).prune()
    recipe = dataclasses.replace(methods.magnitude(0.6), allow_collapse=("2.*",))
    pruner = Pruner(model, recipe)
    pruner.prune()
    assert not pruner.masks["2.weight"].any()


def test_a_budget_that_cannot_be_met_says_what_can():
    import dataclasses

    recipe = dataclasses.replace(methods.activation(0.9, score="neuron"), keep_at_least=10_000)
    model = small_net()
    pruner = Pruner(model, recipe)
    observe(pruner, model)
    with pytest.raises(BudgetError):
        pruner.prune()


def test_a_model_without_prunable_layers():
    with pytest.raises(ModelError, match="Linear"):
        Pruner(nn.Sequential(nn.LayerNorm(4), nn.ReLU()), methods.magnitude(0.5))


def test_a_second_prune_of_a_finished_recipe_says_so():
    _, pruner = pruned(methods.magnitude(0.5, schedule=OneShot()))
    with pytest.raises(RecipeError, match="prunings of this recipe are done"):
        pruner.prune()


def test_the_report_is_a_readable_table():
    model = small_net()
    pruner = Pruner(model, methods.activation(0.5))
    observe(pruner, model)
    text = str(pruner.prune())
    assert "asked 50.00%" in text
    assert "0.weight" in text
    assert "24x32" in text
