"""The compacted network computes what the masked one computes: every kind of network, sparsity, mask and form."""

import copy
import functools

import pytest

from actprune.compact import compaction
from actprune.program import export
from support.compaction import assert_same, masked_copy, random_masks, size
from support.nets import NETS

KINDS = [(sparsity, kind) for sparsity in (0.5, 0.9, 0.98) for kind in ("rows", "weights")]


@functools.cache
def exported(name):
    """Exporting takes most of the time of compacting a small network, and is the same for all masks."""
    return export(NETS[name].make(), NETS[name].inputs())


def compacted(name, masks, form):
    model = copy.deepcopy(exported(name)) if form == "program" else NETS[name].make()
    return compaction(model, masks, example=NETS[name].inputs(), form="graph" if form == "graph" else "module")


@pytest.mark.parametrize(("form", "kinds"), [("module", KINDS), ("program", KINDS), ("graph", KINDS[2:3])])
@pytest.mark.parametrize("name", NETS)
def test_masked_equals_compacted(name, form, kinds):
    model = NETS[name].make()
    sizes = {}
    for sparsity, kind in kinds:
        masks = random_masks(model, sparsity, kind)
        result = compacted(name, masks, form)
        masked = masked_copy(model, masks)
        assert_same(masked, result.model, NETS[name])
        assert result.report.difference["float64"] <= 1e-5
        assert result.report.difference["float32"] <= 1e-4
        sizes[sparsity, kind] = size(result.model)
    assert all(found <= size(model) for found in sizes.values())
    assert sizes[0.9, "rows"] < size(model), "whole rows are dead, and nothing was removed"
    if len(kinds) > 1:
        assert sizes[0.98, "rows"] <= sizes[0.9, "rows"] <= sizes[0.5, "rows"]
        assert sizes[0.98, "weights"] < size(model), "98 % of the weights are gone, and nothing was removed"


@pytest.mark.parametrize("name", NETS)
def test_nothing_is_removed_where_nothing_is_dead(name):
    result = compacted(name, None, "module")
    assert size(result.model) == size(NETS[name].make())
    assert result.report.parameters[0] == result.report.parameters[1]
