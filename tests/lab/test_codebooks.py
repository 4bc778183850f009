"""Trained codebooks: few values per tensor, exact in fp16, zeros untouched, better than rounding alone."""

import copy

import torch
from torch import nn

from actprune.lab.codebooks import Codebooks, fine_tune
from actprune.lab.evaluate import evaluate
from actprune.program import export


def task(seed=0):
    """Two noisy classes, and a network that tells them apart, 70 % of its weights zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(600, 12, generator=generator)
    y = (x[:, :3].sum(1) + 0.1 * torch.randn(600, generator=generator) > 0).long()
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 2))
    with torch.no_grad():
        model[0].weight.mul_(torch.rand(20, 12, generator=generator) < 0.3)
    optimizer, kept = torch.optim.Adam(model.parameters(), 0.01), model[0].weight.detach() != 0
    for _ in range(200):
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        model[0].weight.data.mul_(kept)
    return export(model, x[:2]), (x[:400], y[:400]), (x[400:], y[400:])


def test_at_most_two_to_the_bits_values_remain_and_fp16_holds_them():
    program, train, validation = task()
    zero = program.get_parameter("0.weight") == 0
    fine_tune(program, {"0.weight": 2, "2.weight": 3}, train, validation, epochs=2)
    weight = program.get_parameter("0.weight").detach()
    assert torch.equal(weight == 0, zero)
    assert len(weight[~zero].unique()) <= 4
    assert len(program.get_parameter("2.weight").unique()) <= 8
    for name in ("0.weight", "2.weight"):
        values = program.get_parameter(name)
        assert torch.equal(values.half().float(), values)


def test_training_the_codebooks_recovers_what_rounding_lost():
    program, train, validation = task()
    bits = {"0.weight": 1, "2.weight": 1}
    rounded = copy.deepcopy(program)
    Codebooks(rounded, bits).write()
    lost = evaluate(rounded, validation).accuracy
    tuned = fine_tune(program, bits, train, validation, epochs=8, lr=0.05, batch_size=32)
    assert tuned == evaluate(program, validation).accuracy
    assert tuned > lost + 0.02
    assert lost < evaluate(task()[0], validation).accuracy


def test_the_same_seed_gives_the_same_bits_and_no_epochs_give_plain_rounding():
    results = []
    for _ in range(2):
        program, train, validation = task()
        fine_tune(program, {"0.weight": 2}, train, validation, epochs=2, seed=3)
        results.append(program.get_parameter("0.weight").detach())
    assert torch.equal(*results)
    program, train, validation = task()
    rounded = copy.deepcopy(program)
    Codebooks(rounded, {"0.weight": 2}).write()
    fine_tune(program, {"0.weight": 2}, train, validation, epochs=0)
    assert torch.equal(program.get_parameter("0.weight"), rounded.get_parameter("0.weight"))
