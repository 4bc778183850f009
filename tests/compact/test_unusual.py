"""Operations of which too much could be assumed: what they do to dead units is compared with the masked network."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from actprune.compact import compact, compaction
from actprune.errors import ModelError
from support.compaction import assert_same, dead_rows, masked_copy, shapes
from support.nets import Net

FORMS = ["module", "graph"]
VECTOR, IMAGE = Net(None, ((6,),)), Net(None, ((2, 6, 6),))


class Between(nn.Module):
    """Something done to the activations between two layers; ``width``: how many come out of it."""

    def __init__(self, change, width=5, first=None):
        super().__init__()
        self.first, self.last, self.change = first or nn.Linear(6, 5), nn.Linear(width, 3), change
        nn.init.uniform_(self.first.bias, 0.5, 2)  # a dead unit sends its bias on

    def forward(self, x):
        return self.last(self.change(F.relu(self.first(x))))


def compacted(model, net, dead, form, **options):
    masks = dead_rows(model, {"first.weight": dead})
    result = compaction(model, masks, example=net.inputs(3), form=form, **options)
    assert_same(masked_copy(model, masks), result.model, net)
    return shapes(result.model)


BY_BATCH = {
    "sum": lambda h: h + h.sum(0),
    "softmax": lambda h: h + h.softmax(0),
    "size": lambda h: h / h.size(0) + h.size(0),
    "arange": lambda h: h + torch.arange(h.size(0)).sum(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", BY_BATCH)
def test_what_depends_on_the_batch_size_is_no_constant(name, form):
    assert compacted(Between(BY_BATCH[name]), VECTOR, [1, 3], form)["first.weight"] == (5, 6)


@pytest.mark.parametrize("form", FORMS)
def test_a_mean_over_the_batch_is_one(form):
    assert compacted(Between(lambda h: h + h.mean(0)), VECTOR, [1, 3], form)["first.weight"] == (3, 6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dead", [[0, 4], [1, 2], [1, 3]])
def test_channels_that_repeat_others_keep_them(dead, form):
    model = Between(lambda h: F.pad(h, (2, 2), mode="reflect"), 9)
    assert compacted(model, VECTOR, dead, form)["first.weight"] == (5, 6)


@pytest.mark.parametrize("start", [-3, -5, -6, -7, -9, -11])
def test_slices_that_begin_before_the_beginning(start):
    width = min(-start, 5)
    found = compacted(Between(lambda h: h[:, start:], width), VECTOR, [1, 3], "graph")
    assert found["last.weight"] == (3, width - (2 if width == 5 else 1))


@pytest.mark.parametrize("form", FORMS)
def test_adaptive_maxima(form):
    model = Between(lambda h: F.adaptive_max_pool2d(h, 2).flatten(1), 16, nn.Conv2d(2, 4, 3))
    found = compacted(model, IMAGE, [0, 3], form)
    assert (found["first.weight"], found["last.weight"]) == ((2, 2, 3, 3), (3, 8))


def test_heads_that_share_keys_stay():
    def attend(h):
        return F.scaled_dot_product_attention(h, h[:, :2], h[:, :2], enable_gqa=True).flatten(1)

    assert compacted(Between(attend, 64, nn.Conv2d(2, 4, 3)), IMAGE, [1, 3], "graph")["first.weight"] == (4, 2, 3, 3)


def test_attention_to_nothing_is_no_constant():
    """Where a mask made of the input excludes every key, zeros come out; here, for no example that is seen."""

    def attend(h):
        mask = (h[:, :1, :, :1] < 1e6).expand(-1, 4, 4, 4)
        return F.scaled_dot_product_attention(h, h, h, attn_mask=mask).flatten(1)

    assert compacted(Between(attend, 64, nn.Conv2d(2, 4, 3)), IMAGE, [1, 3], "graph")["first.weight"] == (4, 2, 3, 3)


def test_statistics_of_the_batch_make_a_constant_border_vary():
    def norm(h):
        return F.batch_norm(F.pad(h, (1, 1, 1, 1)), None, None, training=True)[:, :, 0].flatten(1)

    model = Between(norm, 32, nn.Conv2d(2, 4, 1))
    assert compacted(model, IMAGE, [1], "graph")["first.weight"] == (4, 2, 1, 1)


@pytest.mark.parametrize("form", FORMS)
def test_a_bias_that_is_also_that_of_a_normalisation_takes_no_constants(form):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last, self.norm = nn.Linear(6, 5), nn.Linear(5, 4), nn.BatchNorm1d(4)
            self.norm.bias = self.last.bias
            nn.init.uniform_(self.first.bias, 0.5, 2)

        def forward(self, x):
            return self.norm(self.last(F.relu(self.first(x))))

    assert compacted(Shared(), VECTOR, [1, 3], form)["first.weight"] == (5, 6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", [lambda x: x.float() / 255, lambda x: x / 255, lambda x: (x > 99) * 1.0])
def test_models_that_make_numbers_of_bytes(change, form):
    class Bytes(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.last(F.relu(self.first(change(x))))

    model, x = Bytes(), torch.randint(0, 256, (9, 6), dtype=torch.uint8)
    masks = dead_rows(model, {"first.weight": [0, 2]})
    result = compaction(model, masks, example=x[:3], form=form)
    assert shapes(result.model)["first.weight"] == (3, 6)
    assert "float32" in result.report.difference
    assert torch.allclose(result.model(x), masked_copy(model, masks)(x), atol=1e-6)


DROPPING = {
    "dropout": lambda h: F.dropout(h, 0.5),
    "alpha": lambda h: F.alpha_dropout(h, 0.5, training=True),
    "attention": lambda h: F.scaled_dot_product_attention(h, h, h, dropout_p=0.5),
}


@pytest.mark.parametrize("name", DROPPING)
def test_dropout_that_never_ends_is_refused(name):
    with pytest.raises(ModelError, match="drops values at random even in evaluation mode"):
        compact(Between(DROPPING[name]), example=torch.randn(3, 4, 6))


def test_dropout_of_evaluation_mode_is_left_out():
    model = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 3))
    assert [step.op for step in compact(model, example=torch.randn(3, 6), form="graph").steps] == ["linear", "linear"]
