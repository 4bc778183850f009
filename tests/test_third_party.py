"""Everything a third party may bring, defined here and carried by the Pruner: evidence, criterion, unit, repair ..

Nothing below is known to the package. Each part is checked by what it does to a net whose answer is worked out by hand.
"""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from actprune import Pruner
from actprune.criteria import Magnitude, Saliency
from actprune.edit import Edit, Method, Quota
from actprune.errors import ObservationError, RecipeError
from actprune.evidence import Gradient, OfActivations, OfWeights
from actprune.rank.units import LayerUnit
from actprune.ranked import Grow, Ranked
from actprune.recipes import from_dict, register, to_dict
from actprune.schedules import Cubic, OneShot
from actprune.testing import check_method, observe, small_data, small_net
from actprune.types import Budget
from support.training import stepped


@register
@dataclass(frozen=True)
class Peak(OfActivations):
    """Rows on which a neuron is the most active of its layer."""

    sees: ClassVar[str] = "output"

    def init(self, units, like):
        return {"peaks": torch.zeros(units, dtype=torch.int64, device=like.device)}

    def update(self, sums, values, axis):
        rows = values.detach().movedim(axis, -1).reshape(-1, values.shape[axis])
        sums["peaks"] += torch.bincount(rows.argmax(1), minlength=rows.shape[1])


@register
@dataclass(frozen=True)
class Norm(OfWeights):
    """The norm of every row, at the pruning step."""

    keys: ClassVar[tuple[str, ...]] = ("norm",)

    def read(self, weight):
        return {"norm": weight.double().flatten(1).norm(dim=1)}


@register
@dataclass(frozen=True)
class PeakTimesNorm:
    """A criterion over both."""

    @property
    def needs(self):
        return (Peak(), Norm())

    def score(self, layer):
        score = layer.evidence["peaks"].double() * layer.evidence["norm"]
        return score[:, None].expand(layer.weight.shape)


@register
@dataclass(frozen=True)
class Column(LayerUnit):
    """A unit: one input of a layer, with all weights that read it."""

    def scores(self, scores):
        return scores.flatten(1).double().sum(0)

    def kept_weights(self, shape, mask):
        return shape[0] if mask is None else mask.flatten(1).sum(0)

    def mask(self, keep, shape):
        return keep[None].expand(shape[0], -1).reshape(shape).clone()


@register
@dataclass(frozen=True)
class Halve:
    """A repair: what is kept is halved, biases too; the optimizer starts again."""

    restarts: ClassVar[bool] = True

    def repair(self, view, edit):
        weights = {name: view.layer(name).weight / 2 for name in view.names}
        biases = {name.replace("weight", "bias"): view.tensor(name.replace("weight", "bias")) / 2 for name in weights}
        return edit._replace(weights={**edit.weights, **weights, **biases})


@register
@dataclass(frozen=True, kw_only=True)
class Checkerboard(Method):
    """A method of its own: every other weight goes, whatever it is, and its neighbour takes its value over."""

    @property
    def evidence(self):
        return ()

    def edit(self, view, quota):
        masks, weights = {}, {}
        for facts in view.facts:
            flat = view.layer(facts.name).weight.flatten()
            kept = torch.arange(len(flat)) % 2 == 0
            moved = torch.where(kept, flat + flat.roll(-1), 0.0)
            masks[facts.name] = kept.view(facts.shape)
            weights[facts.name] = moved.view(facts.shape)
        return Edit(masks, weights)


def ranked(sparsity=0.5, *, seed=0, **slots):
    slots = {"criterion": Magnitude(), "schedule": OneShot(), **slots}
    return Ranked(name="mine", budget=Budget.sparsity(sparsity), seed=seed, **slots)


def test_evidence_and_criterion():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.diag(torch.tensor([1.0, 2.0, 3.0])))
    pruner = Pruner(model, ranked(1 / 3, criterion=PeakTimesNorm(), skip_output=True, scope="layer"), keep_zeros=False)
    with pruner.observe():
        model(torch.eye(3)[[0, 0, 0, 0, 1, 2]])  # the first is the peak of 4 rows, the others of one each
    pruner.prune()
    assert pruner.state.sums["0.weight"]["peaks"].tolist() == [4, 1, 1]
    # 4 * 1, 1 * 2, 1 * 3: the second row goes
    assert pruner.masks["0.weight"].int().tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 1]]


def test_missing_evidence_of_ones_own_is_named():
    with pytest.raises(ObservationError, match=r"needs Peak\(\) of .* run observe\(\) first"):
        Pruner(small_net(), ranked(criterion=PeakTimesNorm())).prune()


def test_unit():
    weight = torch.tensor([[1.0, -5.0, 2.0], [1.0, 1.0, 2.0]])
    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(weight)
    pruner = Pruner(model, ranked(1 / 3, unit=Column()))
    pruner.prune()
    assert pruner.masks["0.weight"].int().tolist() == [[0, 1, 1], [0, 1, 1]]


def test_repair():
    model = small_net()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    pruner = Pruner(model, ranked(0.5, repairs=(Halve(),)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    pruner.attach(optimizer)
    stepped(pruner, model, optimizer, small_data()[0])
    assert optimizer.state
    pruner.prune()
    assert not optimizer.state
    for name, parameter in model.named_parameters():
        mask = pruner.masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        assert torch.equal(parameter, before[name] / 2 * mask)


def test_method():
    model = small_net()
    weight = model[0].weight.detach().clone().flatten()
    recipe = Checkerboard(name="checkerboard", budget=Budget.sparsity(0.5), schedule=OneShot())
    report = Pruner(model, recipe).prune()
    assert report.actual == 0.5
    assert torch.equal(model[0].weight.flatten()[::2], weight[::2] + weight[1::2])
    assert not model[0].weight.flatten()[1::2].any()
    assert from_dict(to_dict(recipe)) == recipe


def test_all_of_them_keep_the_contract():
    check_method(lambda sparsity, *, seed=0: ranked(sparsity, seed=seed, criterion=PeakTimesNorm(), unit=Column()))
    check_method(lambda sparsity, *, seed=0: ranked(sparsity, seed=seed, repairs=(Halve(),)))


@register
@dataclass(frozen=True)
class SecondMoment:
    """An objective of one's own, on calibration data: the sum of squared outputs."""

    def __call__(self, model, inputs):
        args, kwargs = inputs
        return model(*args, **kwargs).square().sum()


def test_an_objective_of_ones_own_in_rounds_behind_what_is_pruned():
    """Two rounds: the second gradient is that of the network that the first has left."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    inputs = torch.randn(12, 6)
    recipe = ranked(0.75, criterion=Saliency(SecondMoment()), rounds=2, keep_at_least=0)

    def saliency(masks):
        weights = [layer.weight.detach() * mask for layer, mask in zip((model[0], model[2]), masks, strict=True)]
        leaves = [weight.requires_grad_() for weight in weights]
        hidden = nn.functional.linear(inputs, leaves[0], model[0].bias.detach()).relu()
        loss = nn.functional.linear(hidden, leaves[1], model[2].bias.detach()).square().sum()
        return [(w.detach() * g).abs() for w, g in zip(leaves, torch.autograd.grad(loss, leaves), strict=True)]

    def keep(scores, masks, removed):
        flat = torch.cat([torch.where(m, s, -1.0).flatten() for s, m in zip(scores, masks, strict=True)])
        kept = torch.ones_like(flat, dtype=torch.bool)
        kept[flat.argsort()[:removed]] = False
        return [part.view_as(m) for part, m in zip(kept.split([30, 20]), masks, strict=True)]

    masks = [torch.ones(5, 6, dtype=torch.bool), torch.ones(4, 5, dtype=torch.bool)]
    for removed in (25, 38):  # 1 - 0.25^(1/2) = 0.5, then 0.75 of 50 (37.5, rounded up)
        masks = keep(saliency(masks), masks, removed)
    pruner = Pruner(model, recipe)
    with pruner.observe():
        model(inputs)
    pruner.prune()
    for mask, wanted in zip(pruner.masks.values(), masks, strict=True):
        assert torch.equal(mask, wanted)


def test_gradients_of_the_training_loss_under_a_cubic_schedule_from_the_optimizer():
    """At every pruning step the evidence is what that step found in ``.grad``, and no observe() is needed."""
    model, (inputs, labels) = small_net(), small_data()
    seen = []

    @dataclass(frozen=True)
    class Mine:
        """|w * g|, and a note of the gradients it was shown."""

        @property
        def needs(self):
            return (Gradient(),)

        def score(self, layer):
            if layer.name == "0.weight":
                seen.append(layer.evidence["gradient"].clone())
            return (layer.weight * layer.evidence["gradient"]).abs()

    pruner = Pruner(model, ranked(0.8, criterion=Mine(), schedule=Cubic(0, 6, 2)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    pruner.attach(optimizer)
    found = []
    for _ in range(7):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        found.append(model[0].weight.grad.clone())
        optimizer.step()
    assert pruner.state.pruning_step == 3
    assert pruner.sparsity == pytest.approx(0.8, abs=1e-3)
    for at in (1, 3, 5):
        assert any(torch.equal(found[at], gradient) for gradient in seen)
    assert not any(torch.equal(found[at], gradient) for at in (0, 2, 4, 6) for gradient in seen)


def test_observed_gradients_come_before_those_of_the_step():
    model = small_net()
    pruner = Pruner(model, ranked(0.5, criterion=Saliency(), schedule=Cubic(0, 1, 1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.attach(optimizer)
    observe(pruner, model)
    expected = {name: (p.detach() * pruner.state.gradients[name]).abs() for name, p in pruner.parameters.items()}
    optimizer.zero_grad()
    (model(small_data()[0]) * 0).sum().backward()  # a step that moves nothing, with gradients that say nothing
    optimizer.step()
    kept = torch.cat([expected[name][mask] for name, mask in pruner.masks.items()])
    gone = torch.cat([expected[name][~mask] for name, mask in pruner.masks.items()])
    assert kept.min() >= gone.max()


@pytest.mark.parametrize(
    ("slots", "says"),
    [
        ({"scope": "per_layer"}, r"scope='per_layer' is not known; did you mean 'layer'.*'row', 'layer', 'global'"),
        ({"scope": "layer", "allocation": "ERK"}, r"allocation='ERK' is not known; .*'uniform', 'erk', 'staged'"),
        ({"regrow": "splise"}, r"regrow='splise' is not known; known: 'frozen', 'free', 'dense', 'dense_frozen'"),
        ({"count_on": "trian"}, r"count_on='trian' is not known; did you mean 'train'.*'observe', 'train'"),
        ({"allocation": "erk"}, r"allocation='erk' would have no effect.*scope='layer'"),
        ({"unit": "neuron"}, r"unit='neuron' cannot be carried out: it has no groups.*Neuron\(\)"),
        ({"unit": Column}, r"unit=.*Column.* cannot be carried out"),
        ({"criterion": Halve()}, r"criterion=Halve\(\) cannot be carried out: it has no needs, score"),
        ({"repairs": (Magnitude(),)}, r"repairs=Magnitude\(\) cannot be carried out: it has no repair.*Rewind\(0\)"),
        ({"repairs": Halve()}, r"expected a tuple of repairs"),
        ({"schedule": None}, r"schedule=None cannot be carried out"),
        ({"budget": 0.5}, r"budget=0.5 cannot be carried out"),
        ({"penalty": Halve()}, r"penalty=Halve\(\) cannot be carried out"),
        ({"keep_at_least": -1}, r"keep_at_least=-1 .* at least 0"),
        ({"count_every": 0}, r"count_every=0"),
        ({"rounds": 0}, r"rounds=0 .* at least 1"),
        ({"rounds": 2, "criterion": Saliency()}, r"rounds=2 collects evidence again.*Saliency\(of=...\)"),
        ({"allow_collapse": "fc1"}, r"expected a tuple of patterns, such as \('fc1',\)"),
        ({"grow": Grow(Magnitude()), "unit": Column()}, r"grow brings single weights back"),
    ],
    ids=str,
)  # fmt: skip
def test_slots_refuse_at_construction_what_nobody_carries_out(slots, says):
    with pytest.raises(RecipeError, match=says):
        Ranked(
            **{"name": "mine", "criterion": Magnitude(), "budget": Budget.sparsity(0.5), "schedule": OneShot(), **slots}
        )


def test_evidence_that_nobody_can_collect_is_refused():
    @dataclass(frozen=True)
    class Tea:
        keys: ClassVar = ("tea",)
        needs_data: ClassVar = True

    @dataclass(frozen=True)
    class Leaves:
        @property
        def needs(self):
            return (Tea(),)

        def score(self, layer):
            return layer.weight

    with pytest.raises(RecipeError, match=r"nobody can collect .*Tea.*OfActivations"):
        Pruner(small_net(), ranked(criterion=Leaves()))


def test_a_method_that_forgets_a_layer_or_returns_no_mask_is_told():
    @dataclass(frozen=True, kw_only=True)
    class Forgetful(Checkerboard):
        def edit(self, view, quota: Quota):
            edit = super().edit(view, quota)
            return edit._replace(masks={name: mask for name, mask in edit.masks.items() if name != "2.weight"})

    model = small_net()
    before = model[0].weight.detach().clone()
    with pytest.raises(RecipeError, match=r"do not belong to the layers it was shown.*2\.weight"):
        Pruner(model, Forgetful(name="forgetful", budget=Budget.sparsity(0.5), schedule=OneShot())).prune()
    assert torch.equal(model[0].weight, before)


def test_the_pruner_refuses_to_leave_sharing_undone():
    from actprune.methods import deep_compression

    with pytest.raises(RecipeError, match=r"sharing_elsewhere=True"):
        Pruner(small_net(), deep_compression(0.5))
    Pruner(small_net(), deep_compression(0.5), sharing_elsewhere=True).prune()


def test_reading_the_state_writes_nothing():
    model = small_net()
    pruner = Pruner(model, ranked(0.5))
    assert pruner.state is pruner.state
    before = dict(vars(pruner.state))
    _ = pruner.state, pruner.masks, pruner.sparsity, pruner.finished, pruner.state.progress
    assert vars(pruner.state) == before
    stored = pruner.state_dict()
    other = Pruner(small_net(), ranked(0.5))
    held = other.state
    other.load_state_dict(stored)
    assert other.state is held  # one state: whoever holds it sees what was loaded
