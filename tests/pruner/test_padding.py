"""Padding is no example: nothing is counted of it, whatever the shape that a layer sees."""

import pytest
import torch
from torch import nn

import actprune
from actprune import Pruner, methods
from actprune.errors import ObservationError, RecipeError


class Encoder(nn.Module):
    """Tokens of different layouts: (B, T, d), (T, B, d), (B * T, d), a conv over time, and a pooled head."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.one, self.two, self.three = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.conv, self.head, self.last = nn.Conv1d(6, 6, 1), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, ids, attention_mask=None):
        x = torch.relu(self.one(self.embed(ids)))
        x = torch.relu(self.two(x.transpose(0, 1))).transpose(0, 1)
        x = torch.relu(self.three(x.reshape(-1, 6))).view_as(x)
        x = torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        if attention_mask is None:
            attention_mask = torch.ones_like(ids)
        weight = attention_mask.unsqueeze(-1).to(x.dtype)
        return self.last(torch.relu(self.head((x * weight).sum(1) / weight.sum(1))))


IDS = torch.randint(1, 11, (4, 7), generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([7, 3, 1, 5])
MASK = (torch.arange(7) < LENGTHS[:, None]).long()


def counted(recipe, calls, how="observe", **observe):
    torch.manual_seed(0)
    model = Encoder()
    pruner = Pruner(model, recipe)
    if how == "train":
        pruner.attach(torch.optim.SGD(model.parameters(), 0.1))
        for call in calls:
            call(model)
    else:
        with pruner.observe(**observe):
            for call in calls:
                call(model)
    pruner.state_dict()
    return pruner.state.sums


def alone():
    """Each example by itself, without its padding."""
    return [lambda model, i=i: model(IDS[i : i + 1, : LENGTHS[i]]) for i in range(4)]


RECIPES = [
    actprune.activation(0.5), actprune.activation(0.5, count="mean_abs"), actprune.activation(0.5, fires_above=0.1),
    methods.wanda(0.5), methods.sparsegpt(0.5),
]  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"{recipe.name} {recipe.evidence[0]}")
@pytest.mark.parametrize("form", ["keyword", "position", "bool", "float rows"])
def test_padded_batches_count_like_their_examples_alone(recipe, form):
    calls = {
        "keyword": lambda model: model(IDS, attention_mask=MASK),
        "position": lambda model: model(IDS, MASK),
        "bool": lambda model: model(IDS, attention_mask=MASK.bool()),
        "float rows": lambda model: model(IDS, attention_mask=2 * MASK),
    }
    found, expected = counted(recipe, [calls[form]]), counted(recipe, alone())
    assert found.keys() == expected.keys()
    for name, sums in expected.items():
        for key, value in sums.items():
            torch.testing.assert_close(found[name][key], value, rtol=1e-5, atol=1e-5, msg=f"{name} {key}")
    rows = {name: int(sums.get("rows", sums.get("in_rows"))) for name, sums in found.items()}
    for name in ("one", "two", "three", "conv"):
        assert rows[f"{name}.weight"] == int(LENGTHS.sum())
    assert rows["head.weight"] == 4


def test_live_counting_leaves_padding_out():
    live = actprune.activation(0.5, count_on="train")
    found = counted(live, [lambda model: model(IDS, attention_mask=MASK)], "train")
    expected = counted(actprune.activation(0.5), alone())
    for name, sums in expected.items():
        assert torch.equal(found[name]["fired"], sums["fired"])
        assert int(found[name]["rows"]) == int(sums["rows"])


def test_without_a_mask_all_tokens_count():
    recipe = actprune.activation(0.5)
    plain = counted(recipe, [lambda model: model(IDS)])
    for name, sums in counted(recipe, [lambda model: model(IDS, attention_mask=torch.ones_like(IDS))]).items():
        assert torch.equal(plain[name]["fired"], sums["fired"])
    off = counted(recipe, [lambda model: model(IDS, attention_mask=MASK)], mask=None)
    assert int(off["one.weight"]["rows"]) == 28


def test_a_mask_of_any_name_or_a_function():
    recipe = actprune.activation(0.5)
    expected = counted(recipe, alone())
    by_function = counted(recipe, [lambda model: model(IDS)], mask=lambda args, kwargs: MASK)
    assert int(by_function["three.weight"]["rows"]) == int(expected["three.weight"]["rows"])

    class Batched(Encoder):
        def forward(self, batch):
            return super().forward(batch["ids"])

    pruner = Pruner(Batched(), recipe)
    with pruner.observe(mask="real"):
        pruner.model({"ids": IDS, "real": MASK})
    assert int(pruner.state.sums["one.weight"]["rows"]) == int(LENGTHS.sum())


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.zeros(4, 1, 7, 7), r"attention_mask.*is \(4, 1, 7, 7\) of torch.float32.*observe\(mask=None\)"),
        (torch.ones(4, 7), r"is \(4, 7\) of torch.float32"),
        ([[1] * 7] * 4, "is list"),
    ],
)
def test_a_mask_that_tells_nothing_is_said(mask, words):
    class Takes(Encoder):
        def forward(self, ids, attention_mask=None):
            return super().forward(ids)

    pruner = Pruner(Takes(), actprune.activation(0.5))
    with pytest.raises(ObservationError, match=words), pruner.observe():
        pruner.model(IDS, attention_mask=mask)
    with pytest.raises(ObservationError, match="called without it"), pruner.observe(mask="paddings"):
        pruner.model(IDS)


def test_masks_of_encoder_and_decoder_must_be_told_apart():
    class Both(Encoder):
        def forward(self, ids, attention_mask, decoder_attention_mask):
            return super().forward(ids, attention_mask)

    pruner = Pruner(Both(), actprune.activation(0.5))
    with pytest.raises(ObservationError, match="nobody can tell"), pruner.observe():
        pruner.model(IDS, attention_mask=MASK, decoder_attention_mask=1 - MASK)
    with pruner.observe():
        pruner.model(IDS, attention_mask=MASK, decoder_attention_mask=torch.ones(4, 9, dtype=torch.int64))


class Translator(nn.Module):
    """An encoder's tokens, a decoder's of another length, and what the decoder reads of the encoder."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.one, self.two, self.cross, self.last = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, input_ids, decoder_input_ids, attention_mask=None, decoder_attention_mask=None):
        read = torch.relu(self.one(self.embed(input_ids)))
        said = torch.relu(self.two(self.embed(decoder_input_ids)))
        return self.last(said + torch.relu(self.cross(read)).mean(1, keepdim=True))


TOKENS = torch.randint(1, 11, (4, 9), generator=torch.Generator().manual_seed(1))
SAID = torch.tensor([2, 9, 4, 1])
DECODER = (torch.arange(9) < SAID[:, None]).long()


@pytest.mark.parametrize("how", ["observe", "train"])
@pytest.mark.parametrize(
    ("masks", "encoder", "decoder"),
    [
        ({"attention_mask": MASK, "decoder_attention_mask": DECODER}, 16, 16),
        ({"attention_mask": MASK}, 16, 36),
        ({"decoder_attention_mask": DECODER.bool()}, 28, 16),
        ({"attention_mask": torch.ones_like(MASK), "decoder_attention_mask": DECODER}, 28, 16),
        ({}, 28, 36),
    ],
)
def test_a_decoder_has_padding_of_its_own(how, masks, encoder, decoder):
    model = Translator()
    pruner = Pruner(model, actprune.activation(0.5, count_on=how))
    if how == "train":
        pruner.attach(torch.optim.SGD(model.parameters(), 0.1))
        model(IDS, TOKENS, **masks)
        pruner.state_dict()
    else:
        with pruner.observe():
            model(IDS, TOKENS, **masks)
    rows = {name: int(sums["rows"]) for name, sums in pruner.state.sums.items()}
    assert rows == {"one.weight": encoder, "cross.weight": encoder, "two.weight": decoder}


def test_a_decoders_mask_alone_says_nothing_of_an_encoder_of_its_length():
    pruner = Pruner(Translator(), actprune.activation(0.5))
    with pytest.raises(ObservationError, match="nobody can tell"), pruner.observe():
        pruner.model(TOKENS, TOKENS, decoder_attention_mask=DECODER)


def test_tokens_behind_their_heads_are_told():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.each, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x, attention_mask=None):
            return self.last(torch.relu(self.each(x.unflatten(-1, (2, 3)).transpose(1, 2))))

    x = torch.randn(4, 7, 6)
    pruner = Pruner(Heads(), actprune.activation(0.5))
    with pruner.observe():
        pruner.model(x, attention_mask=MASK)
    sums = pruner.state.sums["each.weight"]
    expected = torch.relu(pruner.model.each(x[MASK.bool()].unflatten(-1, (2, 3)))) > 0
    assert int(sums["rows"]) == 2 * int(LENGTHS.sum())
    assert torch.equal(sums["fired"], expected.sum((0, 1)))


def additive(mask):
    return (1.0 - mask[:, None, None, :].float()) * -1e9


@pytest.mark.parametrize(
    "mask",
    [None, lambda args, kwargs: kwargs["attention_mask"][:, 0, 0, :] == 0],
    ids=["attach(mask=None)", "attach(mask=function)"],
)
def test_the_remedy_for_an_odd_mask_works_where_training_batches_are_counted(mask):
    class Additive(Encoder):
        def forward(self, ids, attention_mask=None):
            return super().forward(ids)

    model = Additive()
    pruner = Pruner(model, actprune.activation(0.5, count_on="train"))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner.attach(optimizer)
    with pytest.raises(ObservationError, match=r"attach\(optimizer, mask="):
        model(IDS, attention_mask=additive(MASK))
    pruner.detach()
    pruner.attach(optimizer, mask=mask)
    model(IDS, attention_mask=additive(MASK))
    pruner.state_dict()
    assert int(pruner.state.sums["one.weight"]["rows"]) == (28 if mask is None else 16)


@pytest.mark.parametrize("mask", [lambda *_: MASK, "real", None], ids=["function", "name", "none"])
def test_only_the_default_is_kept_for_evidence_that_is_collected_again(mask):
    pruner = Pruner(Encoder(), methods.sparsegpt(0.5))
    with pytest.raises(RecipeError, match="does not keep"), pruner.observe(mask=mask):
        pruner.model(IDS)


def test_a_mask_that_says_the_opposite_is_refused_with_its_remedy():
    class Torch(Encoder):
        def forward(self, ids, src_key_padding_mask):
            return super().forward(ids)

    pruner = Pruner(Torch(), actprune.activation(0.5))
    with pytest.raises(RecipeError, match=r"mask=lambda"), pruner.observe(mask="src_key_padding_mask"):
        pruner.model(IDS, src_key_padding_mask=MASK == 0)
    with pruner.observe(mask=lambda args, kwargs: ~kwargs["src_key_padding_mask"]):
        pruner.model(IDS, src_key_padding_mask=MASK == 0)
    assert int(pruner.state.sums["one.weight"]["rows"]) == int(LENGTHS.sum())


def test_a_batch_of_nothing_but_padding_is_an_empty_batch():
    pruner = Pruner(Encoder(), actprune.activation(0.5))
    with pytest.raises(ObservationError, match="0 examples"), pruner.observe():
        pruner.model(IDS, attention_mask=torch.zeros_like(MASK))
