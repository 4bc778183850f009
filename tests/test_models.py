"""Networks that people have: half of the coupled channels go, what is left computes the same and is really smaller."""

import copy
import warnings

import pytest
import torch

import actprune
import zoo
from actprune import Budget, Channel, Head, Pruner, magnitude
from actprune.compact.verify import difference, doubled, masked_call
from actprune.structure import outputs, tensors_of
from first_call import declare_torchvision
from support.models import needs

OWN = (
    "recurrent/lstm-both", "recurrent/gru", "recurrent/lstm-cell", "recurrent/seq2seq", "generative/gan",
    "generative/unet", "generative/pixel-shuffle", "graph/adjacency", "graph/index-add", "audio/wavenet",
    "video/conv3d", "detection/yolo", "recommender/dlrm", "several/siamese", "several/lora", "several/tied",
    "several/experts", "several/experts-fused", "several/encoder-pre", "several/encoder-post", "several/weight-norm",
    "several/spectral-norm",
)  # fmt: skip
LEAST = {"several/lora": 0.4, "several/tied": 0.4, "several/siamese": 0.45}  # 0.55 of the parameters otherwise
TIMM = {
    "resnet10t": {}, "mobilenetv3_small_050": {}, "convnext_atto": {}, "regnety_002": {},
    "vit_tiny_patch16_224": {"img_size": 64}, "eva02_tiny_patch14_224": {"img_size": 56},
}  # fmt: skip


def half(model, example, **options):
    """Prune half of the channels, compact, and compare on another input in float64."""
    recipe = magnitude(budget=Budget.channels(0.5), unit=Channel(**options), scope="layer")
    pruner = Pruner(model, recipe, example=example)
    report = pruner.prune()
    result = actprune.compaction(model, pruner.state, example=example)
    pruner.enforce()
    other = torch.utils._pytree.tree_map(
        lambda item: (
            item.flip(0) + (0.1 if item.is_floating_point() else 0) if isinstance(item, torch.Tensor) else item
        ),
        example,
    )
    args, kwargs = actprune.program.example_args(other)
    with torch.no_grad(), doubled():
        expected = outputs(masked_call(model, tensors_of(model))(*copy.deepcopy(args), **copy.deepcopy(kwargs)))
        got = outputs(result.model(*copy.deepcopy(args), **copy.deepcopy(kwargs)))
    assert difference(expected, got) < 1e-6
    assert report.actual >= 0.5
    return pruner, result


def gone(result):
    before, after = result.report.parameters
    return 1 - after / before


@pytest.mark.parametrize("name", OWN)
def test_networks_of_every_kind_lose_half_of_their_channels(name):
    torch.manual_seed(0)
    model, (args, kwargs) = zoo.build(name)
    _, result = half(model, (args, kwargs) if kwargs else args)
    assert gone(result) >= LEAST.get(name, 0.55), result.report


@pytest.mark.parametrize("name", TIMM)
def test_networks_of_timm(name):
    needs("timm")
    needs("torchvision")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        declare_torchvision()
        import timm

        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=10, **TIMM[name]).eval()
    side = TIMM[name].get("img_size", 64)
    _, result = half(model, torch.randn(2, 3, side, side))
    assert gone(result) > 0.7


# ---- transformers ---------------------------------------------------------------------------------------------------


def transformers_model(kind, **changes):
    needs("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        config = getattr(transformers, f"{kind.split('For')[0].removesuffix('LMHeadModel')}Config")(**changes)
        torch.manual_seed(0)
        return getattr(transformers, kind)(config).eval()


LLAMA = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}  # fmt: skip
TOKENS = torch.tensor([[5, 8, 2, 40, 3], [7, 1, 1, 9, 60]])


@pytest.mark.filterwarnings("ignore")
def test_a_compacted_llama_generates_saves_and_loads(tmp_path):
    model = transformers_model("LlamaForCausalLM", **LLAMA)
    _, result = half(model, {"input_ids": TOKENS}, uniform=True)
    small = result.model
    config = (
        "config: hidden_size 32 -> 16, intermediate_size 64 -> 32, num_attention_heads 4 -> 2, num_key_value_heads "
        "2 -> 1, rms_norm_eps 1e-06 -> 2e-06"
    )
    assert config in result.report.changes
    assert (model.config.hidden_size, small.config.hidden_size) == (32, 16)
    options = {"max_new_tokens": 9, "do_sample": False}
    expected = model.generate(TOKENS, **options)
    assert torch.equal(small.generate(TOKENS, **options), expected)
    small.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(TOKENS).logits, small(TOKENS).logits)
    assert torch.equal(again.generate(TOKENS, **options), expected)
    assert sum(p.numel() for p in again.parameters()) == result.report.parameters[1] - sum(
        buffer.numel() for buffer in again.buffers()
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["T5ForConditionalGeneration", "Qwen2ForCausalLM"])
def test_other_families_are_saved_and_loaded(kind, tmp_path):
    changes = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    example = {"input_ids": TOKENS}
    if kind.startswith("T5"):
        example["decoder_input_ids"] = TOKENS[:, :3]
    model = transformers_model(kind, **(changes if kind.startswith("T5") else LLAMA))
    small = half(model, example, uniform=True)[1].model
    small.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.allclose(again(**example).logits, small(**example).logits, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_configuration_that_cannot_say_it_is_left_and_the_report_says_why():
    model = transformers_model("LlamaForCausalLM", **LLAMA)
    with torch.no_grad():
        model.model.layers[0].mlp.gate_proj.weight.mul_(1e-3)
    unit = Channel(normalize=False)  # uneven widths
    pruner = Pruner(model, magnitude(budget=Budget.channels(0.3), unit=unit), example={"input_ids": TOKENS})
    pruner.prune()
    result = actprune.compaction(model, pruner.state, example={"input_ids": TOKENS})
    line = next(line for line in result.report.changes if line.startswith("config: "))
    assert "stays as it was" in line
    assert "uniform=True" in line
    assert result.model.config.intermediate_size == 64


@pytest.mark.filterwarnings("ignore")
def test_heads_of_a_bert_and_norms_that_keep_their_width():
    sizes = {
        "vocab_size": 99,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    model = transformers_model("BertForSequenceClassification", **sizes)
    example = {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)}
    pruner = Pruner(model, magnitude(budget=Budget.channels(0.5), unit=Head()), example=example)
    pruner.prune()
    small = actprune.compact(model, pruner.state)
    assert [layer.attention.self.query.out_features for layer in small.bert.encoder.layer] in (
        [16, 16],
        [24, 8],
        [8, 24],
    )
    _, result = half(transformers_model("BertForSequenceClassification", **sizes), example)
    assert any(line.endswith("divides by 32") for line in result.report.changes)
    assert any("WidthNorm" in line and line.startswith("config: stays") for line in result.report.changes)


@pytest.mark.filterwarnings("ignore")
def test_a_gpt2_has_no_linear_layer_of_its_own_and_is_pruned_all_the_same():
    model = transformers_model("GPT2LMHeadModel", vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    _, result = half(model, {"input_ids": TOKENS})
    assert gone(result) > 0.6
