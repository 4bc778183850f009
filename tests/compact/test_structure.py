"""What goes, by hand: widths after compaction of networks whose dead units are known."""

import pytest
import torch
from torch import nn

from actprune.compact import GatheredLinear, compaction
from support.compaction import assert_same, dead_rows, masked_copy, shapes
from support.nets import NETS, Net, mlp


def silent(norm, channels):
    """Channels that a BatchNorm maps from 0 to 0, so that nothing is left of them."""
    with torch.no_grad():
        norm.bias[channels] = 0
        norm.running_mean[channels] = 0


def compacted(name, model, masks, form="module", **options):
    result = compaction(model, masks, example=NETS[name].inputs(), form=form, **options)
    assert_same(masked_copy(model, masks), result.model, NETS[name])
    return result


def test_mlp_without_whole_neurons():
    model = NETS["article"].make()
    result = compacted("article", model, dead_rows(model, {"fc1.weight": range(100), "fc3.weight": [3, 99]}))
    found = {name: shape for name, shape in shapes(result.model).items() if name.endswith("weight")}
    assert list(found.values()) == [(200, 784), (200, 200), (98, 200), (50, 98), (10, 50)]
    assert next((layer.name, layer.after) for layer in result.report.layers) == ("fc1", (200, 784))
    assert (result.model.fc1.out_features, result.model.fc2.in_features) == (200, 200)


def test_lenet_channels_take_the_columns_of_the_next_layer_along():
    model = NETS["lenet-5"].make()
    masks = dead_rows(model, {"conv1.weight": [0, 5, 19], "conv2.weight": range(10), "fc1.weight": range(400)})
    small = compacted("lenet-5", model, masks).model
    found = [shape for name, shape in shapes(small).items() if name.endswith("weight")]
    assert found == [(17, 1, 5, 5), (40, 17, 5, 5), (100, 40 * 16), (10, 100)]
    assert (small.conv2.in_channels, small.conv2.out_channels) == (17, 40)


def test_residual_channels_go_when_all_members_are_dead():
    model = NETS["resnet-20"].make()
    members = ["conv.weight", *(f"stage1_{i}.conv2.weight" for i in (1, 2, 3))]
    norms = [model.bn, *(getattr(model, f"stage1_{i}").bn2 for i in (1, 2, 3))]
    for norm in norms:
        silent(norm, [1, 2])
    silent(model.stage1_2.bn1, [0])
    masks = dead_rows(model, {**{name: [1, 2] for name in members}, "stage1_2.conv1.weight": [0]})
    masks["conv.weight"][2] = True  # channel 2 lives in one of them
    result = compacted("resnet-20", model, masks)
    found = shapes(result.model)
    assert all(found[name][0] == 7 for name in members)
    assert found["stage1_1.conv1.weight"] == (8, 7, 3, 3)
    assert found["stage1_2.conv1.weight"] == (7, 7, 3, 3)
    assert found["stage1_2.conv2.weight"] == (7, 7, 3, 3)
    assert found["stage2_1.shortcut.conv.weight"] == (16, 7, 1, 1)
    assert found["stage1_3.bn2.bias"] == (7,)
    assert result.model.bn.num_features == 7
    kept = {layer.name: layer.kept for layer in result.report.layers if layer.kept}
    assert sorted(kept) == ["stage1_1.conv2", "stage1_2.conv2", "stage1_3.conv2"]


def test_depthwise_chain():
    model = NETS["mobilenet"].make()
    for part in (model.stem, model.depth1):
        silent(part[1], [0, 3])
    result = compacted("mobilenet", model, dead_rows(model, {"stem.0.weight": [0, 3]}))
    found = shapes(result.model)
    assert found["stem.0.weight"] == (6, 3, 3, 3)
    assert found["depth1.0.weight"] == (6, 1, 3, 3)
    assert found["point1.0.weight"] == (12, 6, 1, 1)
    assert (result.model.depth1[0].groups, result.model.depth1[0].in_channels) == (6, 6)


@pytest.mark.parametrize("form", ["module", "graph"])
def test_concatenation_shifts_the_columns_of_later_layers(form):
    model = NETS["densenet"].make()
    # padding: their constants must be 0 where later layers with padding read them
    silent(model.bn2, [1, 7])
    silent(model.bn3, [1, 7, 11])
    silent(model.bn1, [1])
    masks = dead_rows(model, {"stem.weight": [1], "conv1.weight": [1], "conv2.weight": [1]})
    found = shapes(compacted("densenet", model, masks, form).model)
    assert found["stem.weight"][0] == 5
    assert found["conv1.weight"][:2] == (3, 5)
    assert found["conv2.weight"][:2] == (3, 8)
    assert found["trans.weight"][:2] == (8, 11)
    assert [found[f"bn{i}.weight"] for i in (1, 2, 3)] == [(5,), (8,), (11,)]


def dead_head(model):
    """Head 2: its v rows and o columns."""
    masks = dead_rows(model, {"attend.v.weight": range(8, 12)})
    masks["attend.o.weight"] = torch.ones(16, 16, dtype=torch.bool)
    masks["attend.o.weight"][:, 8:12] = False
    return masks


@pytest.mark.parametrize("name", ["transformer", "manual attention"])
def test_a_dead_head_goes_where_the_view_can_be_rewritten(name):
    model = NETS[name].make()
    graph = compacted(name, model, dead_head(model), "graph")
    found = shapes(graph.model)
    assert [found[f"attend.{one}.weight"] for one in "qkv"] == [(12, 16)] * 3
    assert found["attend.o.weight"] == (16, 12)
    module = compacted(name, model, dead_head(model), "module")
    assert shapes(module.model) == found
    assert "attend: " in str(module.report)  # an attribute, or sizes rewritten on the fly


def test_part_of_a_head_stays():
    """Three of a head's four columns: the view needs heads of equal size."""
    model = NETS["transformer"].make()
    masks = {"attend.o.weight": torch.ones(16, 16, dtype=torch.bool)}
    masks["attend.o.weight"][:, 8:11] = False
    assert shapes(compacted("transformer", model, masks, "graph").model) == shapes(model)


def test_the_same_column_of_every_head_stays():
    model = NETS["transformer"].make()
    masks = {"attend.o.weight": torch.ones(16, 16, dtype=torch.bool)}
    masks["attend.o.weight"][:, ::4] = False
    found = shapes(compacted("transformer", model, masks, "graph").model)
    assert found["attend.q.weight"] == (16, 16)
    assert found["attend.v.weight"] == (16, 16)  # all of a head is one class, whatever the scale depends on


def test_transformer_neurons():
    model = NETS["transformer"].make()
    found = shapes(compacted("transformer", model, dead_rows(model, {"fc1.weight": range(20)})).model)
    assert (found["fc1.weight"], found["fc2.weight"]) == ((12, 16), (16, 12))


def test_a_view_with_a_number_in_it():
    model = NETS["fixed view"].make()
    masks = dead_rows(model, {"conv1.weight": [0], "conv2.weight": range(10), "fc1.weight": [5]})
    module, graph = (compacted("fixed view", model, masks, form) for form in ("module", "graph"))
    for result in (module, graph):
        assert shapes(result.model)["conv2.weight"] == (40, 7, 5, 5)
        assert shapes(result.model)["fc1.weight"] == (23, 640)
    assert "the model: sizes in its code are rewritten on the fly" in str(module.report)


def test_padded_shortcut_channels():
    """Option A: channels that come from the padding and the second convolution only."""
    model = NETS["padded shortcut"].make()
    silent(model.bn2, [0, 11])
    masks = dead_rows(model, {"conv2.weight": [0, 11]})
    graph = compacted("padded shortcut", model, masks, "graph")
    assert shapes(graph.model)["conv2.weight"] == (10, 12, 3, 3)
    assert [step.args[1] for step in graph.model.steps if step.op == "pad"] == [[0, 0, 0, 0, 2, 2]]
    assert shapes(compacted("padded shortcut", model, masks).model)["conv2.weight"] == (10, 12, 3, 3)


def test_groups_keep_equal_widths():
    model = NETS["grouped"].make()
    silent(model.bn1, [0, 3, 6, 9, 1])
    model.conv1.bias.data[[0, 3, 6, 9, 1]] = 0
    masks = dead_rows(model, {"conv1.weight": [0, 3, 6, 9, 1]})
    found = shapes(compacted("grouped", model, masks).model)
    assert found["conv1.weight"] == (8, 3, 3, 3)  # one of each group went; the fifth stays
    assert found["conv2.weight"] == (8, 2, 3, 3)


def test_gated_halves_go_together():
    model = NETS["gated"].make()
    masks = dead_rows(model, {"fc1.weight": [0, 1, 12, 20]})  # 0 with 12 by the gate; 1 and 20 have partners
    found = shapes(compacted("gated", model, masks).model)
    assert found["fc1.weight"] == (22, 10)
    assert found["fc2.weight"] == (20, 11)


def test_inputs_that_nobody_reads():
    net = Net(lambda: mlp(12, 6, 3), ((12,),))
    model = net.make()
    masks = {"fc1.weight": torch.ones(6, 12, dtype=torch.bool)}
    masks["fc1.weight"][:, [0, 5, 6]] = False
    for form in ("module", "graph"):
        result = compaction(model, masks, example=net.inputs(), form=form)
        assert_same(masked_copy(model, masks), result.model, net)
        assert shapes(result.model)["fc1.weight"] == (6, 9)
        assert result.report.inputs_read == (12, 9)
        assert "inputs read: 9 of 12" in str(result.report)
        kept = result.model.state_dict()["fc1.columns"].tolist()
        assert kept == [1, 2, 3, 4, 7, 8, 9, 10, 11]
    layer = compaction(model, masks, example=net.inputs()).model.fc1
    assert isinstance(layer, GatheredLinear)
    assert isinstance(layer, nn.Linear)
    assert repr(layer) == "GatheredLinear(in_features=12 (reads 9), out_features=6)"
    whole = compaction(model, masks, example=net.inputs(), gather=False)
    assert shapes(whole.model)["fc1.weight"] == (6, 12)
    assert whole.report.inputs_read is None
