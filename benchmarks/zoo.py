"""Networks that people have, small enough to be tried by the hundred: builders by name, `family/name`.

`build(name)` returns a model in evaluation mode and `(args, kwargs)` of two examples. timm, torchvision and
transformers are asked for their own classes, with random weights (and small configurations, where a
configuration says the size).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TIMM = (
    "resnet18", "resnet26d", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "seresnet18", "skresnet18", "resnest14d",
    "res2net50_14w_8s", "ecaresnet26t", "densenet121", "dla34", "dpn48b", "efficientnet_b0", "efficientnet_lite0",
    "tf_efficientnetv2_b0", "mobilenetv2_100", "mobilenetv3_small_100", "mobilenetv4_conv_small", "mnasnet_small",
    "ghostnet_100", "fbnetc_100", "hardcorenas_a", "lcnet_050", "tinynet_e", "regnetx_002", "regnety_002", "repvgg_a0",
    "hrnet_w18_small", "xception41", "inception_v3", "nfnet_l0", "vgg11_bn", "convnext_atto", "convnextv2_atto",
    "poolformer_s12", "mixer_s32_224", "resmlp_12_224", "gmlp_ti16_224", "vit_tiny_patch16_224",
    "deit_tiny_patch16_224", "deit3_small_patch16_224", "beit_base_patch16_224", "eva02_tiny_patch14_224",
    "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "pit_ti_224", "cait_xxs24_224", "xcit_nano_12_p16_224",
    "levit_128s", "mobilevit_xxs", "coat_lite_tiny", "crossvit_tiny_240", "edgenext_xx_small", "efficientformer_l1",
    "fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny", "maxvit_tiny_rw_224", "mvitv2_tiny", "pvt_v2_b0", "rexnet_100",
    "selecsls42b", "tresnet_m", "twins_pcpvt_small", "visformer_tiny", "volo_d1_224", "repvit_m0_9", "starnet_s1",
)  # fmt: skip
TORCHVISION = (
    "alexnet", "vgg11", "vgg11_bn", "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "densenet121",
    "googlenet", "inception_v3", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5",
    "shufflenet_v2_x0_5", "efficientnet_b0", "efficientnet_v2_s", "regnet_y_400mf", "convnext_tiny", "vit_b_32",
    "swin_t", "swin_v2_t", "maxvit_t", "segmentation/fcn_resnet50", "segmentation/deeplabv3_mobilenet_v3_large",
    "segmentation/lraspp_mobilenet_v3_large", "video/r3d_18", "video/mc3_18", "video/r2plus1d_18",
)  # fmt: skip
WIDTHS = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99,
}  # fmt: skip
GROUPED = {**WIDTHS, "num_key_value_heads": 2}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99}
BART = {
    "d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "vocab_size": 99,
}  # fmt: skip
PIXELS = {**WIDTHS, "image_size": 32, "patch_size": 8}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "BertForSequenceClassification": WIDTHS, "RobertaForSequenceClassification": WIDTHS,
    "ElectraForSequenceClassification": {**WIDTHS, "embedding_size": 16},
    "AlbertForSequenceClassification": {**WIDTHS, "embedding_size": 16}, "DebertaV2Model": WIDTHS,
    "DistilBertForSequenceClassification": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 99},
    "MPNetForSequenceClassification": WIDTHS, "MobileBertForSequenceClassification": {
        **WIDTHS, "embedding_size": 32, "intra_bottleneck_size": 32},
    "LlamaForCausalLM": GROUPED, "MistralForCausalLM": GROUPED, "Qwen2ForCausalLM": GROUPED,
    "Qwen3ForCausalLM": {**GROUPED, "head_dim": 8}, "GemmaForCausalLM": {**GROUPED, "head_dim": 8},
    "Gemma2ForCausalLM": {**GROUPED, "head_dim": 8}, "PhiForCausalLM": WIDTHS, "Phi3ForCausalLM": {
        **GROUPED, "pad_token_id": 0}, "GPTNeoXForCausalLM": WIDTHS, "GPT2LMHeadModel": GPT, "GPTJForCausalLM": {
        **GPT, "rotary_dim": 4}, "BloomForCausalLM": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99},
    "OPTForCausalLM": {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                       "vocab_size": 99, "word_embed_proj_dim": 32},
    "FalconForCausalLM": WIDTHS, "StableLmForCausalLM": GROUPED, "OlmoForCausalLM": GROUPED,
    "MixtralForCausalLM": {**GROUPED, "num_local_experts": 4}, "CohereForCausalLM": GROUPED,
    "T5ForConditionalGeneration": {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4,
                                   "vocab_size": 99},
    "BartForConditionalGeneration": BART, "MarianMTModel": {**BART, "pad_token_id": 0, "decoder_start_token_id": 0},
    "ViTForImageClassification": PIXELS, "DeiTForImageClassification": PIXELS, "Dinov2ForImageClassification": PIXELS,
    "SwinForImageClassification": {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "image_size": 32,
                                   "patch_size": 4, "window_size": 4},
    "SegformerForSemanticSegmentation": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1],
                                         "decoder_hidden_size": 16, "num_attention_heads": [1, 2, 2, 4]},
    "ConvNextForImageClassification": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
    "ResNetForImageClassification": {"embedding_size": 8, "hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]},
    "Wav2Vec2ForSequenceClassification": {**WIDTHS, "conv_dim": [16, 16], "conv_kernel": [10, 3], "conv_stride": [5, 2],
                                          "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4,
                                          "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 16},
    "WhisperForConditionalGeneration": {**BART, "max_source_positions": 20, "num_mel_bins": 8, "pad_token_id": 0,
                                        "decoder_start_token_id": 0, "bos_token_id": 0, "eos_token_id": 1},
    "CLIPModel": {"text_config": {**WIDTHS, "eos_token_id": 98, "bos_token_id": 97}, "vision_config": PIXELS,
                  "projection_dim": 16},
}  # fmt: skip
_PICTURES = ("ViT", "DeiT", "Dinov2", "Swin", "Segformer", "ConvNext", "ResNet")
_PAIRS = ("T5", "Bart", "Marian", "Whisper")


# ---- of our own making ----------------------------------------------------------------------------------------------


class Call(nn.Module):
    """A network from parts and a function of them and the inputs."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self._call = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(self, *args, **kwargs)


def conv(i: int, o: int, k: int = 3, **more: Any) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, k, padding=k // 2, **more), nn.BatchNorm2d(o), nn.ReLU(inplace=True))


class UNet(nn.Module):
    """Skip connections by concatenation, transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 16), conv(16, 32), conv(32, 64)
        self.up1, self.up2 = nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)
        self.d, self.e, self.head = conv(64, 32), conv(32, 16), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(F.max_pool2d(a, 2))
        c = self.c(F.max_pool2d(b, 2))
        b = self.d(torch.cat([self.up1(c), b], 1))
        return self.head(self.e(torch.cat([self.up2(b), a], 1)))


class Recurrent(nn.Module):
    def __init__(self, kind: str, layers: int = 2, both: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 24)
        self.cell = getattr(nn, kind)(24, 32, layers, batch_first=True, bidirectional=both)
        self.head = nn.Linear(64 if both else 32, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.cell(self.embed(tokens))[0][:, -1])


class Cells(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.cell, self.head = getattr(nn, kind)(6, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), 32)
        carry = torch.zeros(len(x), 32)
        for t in range(x.shape[1]):
            if isinstance(self.cell, nn.LSTMCell):
                state, carry = self.cell(x[:, t], (state, carry))
            else:
                state = self.cell(x[:, t], state)
        return self.head(state)


class Seq2Seq(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.encoder = nn.Embedding(50, 24), nn.GRU(24, 32, batch_first=True)
        self.decoder, self.attend = nn.GRU(24, 32, batch_first=True), nn.Linear(32, 32)
        self.head = nn.Linear(64, 50)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, state = self.encoder(self.embed(source))
        out, _ = self.decoder(self.embed(target), state)
        weights = torch.softmax(self.attend(out) @ memory.transpose(1, 2), -1)
        return self.head(torch.cat([out, weights @ memory], -1))


class Graph(nn.Module):
    """Graph convolutions: axis 0 is the nodes, edges are a list of pairs."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.one, self.two = kind, nn.Linear(6, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        for layer in (self.one, self.two):
            x = F.relu(self.spread(layer(x), edges))
        return self.head(x)

    def spread(self, x: Tensor, edges: Tensor) -> Tensor:
        if self.kind == "adjacency":
            adjacency = torch.zeros(len(x), len(x)).index_put((edges[1], edges[0]), torch.ones(edges.shape[1]))
            return adjacency @ x
        out = torch.zeros_like(x)
        if self.kind == "scatter":
            return out.scatter_add(0, edges[1][:, None].expand(-1, x.shape[1]), x[edges[0]]) + x
        return out.index_add(0, edges[1], x[edges[0]]) + x


class Recommender(nn.Module):
    """DLRM-like: tables, dense features, products of all pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(20, 16) for _ in range(3))
        self.bottom = nn.Sequential(nn.Linear(5, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(16 + 6, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        x = self.bottom(dense)
        every = torch.stack([x, *(table(ids[:, i]) for i, table in enumerate(self.tables))], 1)
        pairs = torch.bmm(every, every.transpose(1, 2))
        rows, columns = torch.triu_indices(4, 4, 1)
        return self.top(torch.cat([x, pairs[:, rows, columns]], 1))


class WideDeep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.deep = nn.EmbeddingBag(40, 16), nn.Sequential(nn.Linear(21, 32), nn.ReLU(), nn.Linear(32, 16))
        self.wide, self.head = nn.Linear(5, 1), nn.Linear(16, 1)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        found = self.deep(torch.cat([self.bag(batch["ids"]), batch["dense"]], 1))
        return {"score": self.head(F.relu(found)) + self.wide(batch["dense"])}


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.mean = nn.Sequential(nn.Linear(20, 32), nn.ReLU()), nn.Linear(32, 8)
        self.scale, self.decoder = nn.Linear(32, 8), nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 20))

    def forward(self, x: Tensor) -> tuple[Tensor, torch.distributions.Normal]:
        hidden = self.encoder(x)
        found = torch.distributions.Normal(self.mean(hidden), self.scale(hidden).exp())
        return self.decoder(found.mean), found


class GAN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 32 * 16)
        self.net = nn.Sequential(nn.BatchNorm2d(32), nn.ReLU(), nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.BatchNorm2d(16),
                                 nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh())  # fmt: skip

    def forward(self, z: Tensor) -> Tensor:
        return self.net(self.fc(z).view(-1, 32, 4, 4))


class Diffusion(nn.Module):
    """A time embedding added to the channels, GroupNorm, attention over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 32))
        self.stem = nn.Conv2d(3, 32, 3, 1, 1)
        self.norm, self.conv = nn.GroupNorm(4, 32), nn.Conv2d(32, 32, 3, 1, 1)
        self.qkv, self.proj, self.head = nn.Conv2d(32, 96, 1), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 3, 3, 1, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None] * torch.exp(-torch.arange(8) / 2.0)[None]
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        x = self.stem(x)
        x = x + self.conv(F.silu(self.norm(x) + time[:, :, None, None]))
        b, _, h, w = x.shape
        q, k, v = self.qkv(x).reshape(b, 3, 4, -1, h * w).unbind(1)
        out = F.scaled_dot_product_attention(q.transpose(2, 3), k.transpose(2, 3), v.transpose(2, 3))
        return self.head(x + self.proj(out.transpose(2, 3).reshape(b, -1, h, w)))


class Detector(nn.Module):
    """A pyramid with heads that are called on every level, and anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = conv(3, 16, stride=2), conv(16, 32, stride=2), conv(32, 64, stride=2)
        self.l2, self.l3, self.out = nn.Conv2d(32, 24, 1), nn.Conv2d(64, 24, 1), conv(24, 24)
        self.classes, self.boxes = nn.Conv2d(24, 3 * 5, 3, 1, 1), nn.Conv2d(24, 3 * 4, 3, 1, 1)

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        two = self.c2(self.c1(x))
        three = self.c3(two)
        top = self.l3(three)
        both = [self.out(self.l2(two) + F.interpolate(top, size=two.shape[-2:], mode="bilinear")), self.out(top)]
        return {
            "classes": [self.classes(each).flatten(2) for each in both],
            "boxes": [self.boxes(each).permute(0, 2, 3, 1).reshape(len(x), -1, 4) for each in both],
        }


class Yolo(nn.Module):
    """C2f blocks: chunk, a chain that is concatenated, SPPF."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.chain = conv(3, 16), conv(16, 32, 1), nn.ModuleList(conv(16, 16) for _ in range(2))
        self.join, self.squeeze, self.out = conv(64, 32, 1), conv(32, 16, 1), nn.Conv2d(64, 7, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.inner(self.stem(x)).chunk(2, 1))
        for block in self.chain:
            parts.append(block(parts[-1]))
        x = self.squeeze(self.join(torch.cat(parts, 1)))
        levels = [x]
        for _ in range(3):
            levels.append(F.max_pool2d(levels[-1], 5, 1, 2))
        return self.out(torch.cat(levels, 1))


class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Sequential(nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 1))
        self.head = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.max(self.points(x), 2)[0])


class WaveNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 16, 1)
        self.gates = nn.ModuleList(nn.Conv1d(16, 32, 2, dilation=2**i) for i in range(3))
        self.residual = nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(3))
        self.skip, self.head = nn.ModuleList(nn.Conv1d(16, 24, 1) for _ in range(3)), nn.Conv1d(24, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.first(x), 0
        for gate, residual, skip in zip(self.gates, self.residual, self.skip, strict=True):
            a, b = gate(F.pad(x, (gate.dilation[0], 0))).chunk(2, 1)
            z = torch.tanh(a) * torch.sigmoid(b)
            total, x = total + skip(z), x + residual(z)
        return self.head(F.relu(total))


class Experts(nn.Module):
    """A router, experts as modules or in one tensor."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused, self.stem, self.router = fused, nn.Linear(8, 16), nn.Linear(16, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)) for _ in range(4))
        if fused:
            del self.experts
            self.up, self.down = nn.Parameter(torch.randn(4, 16, 32) / 4), nn.Parameter(torch.randn(4, 32, 16) / 4)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        weights = torch.softmax(self.router(x), -1)
        if self.fused:
            hidden = F.relu(torch.einsum("bd,edh->beh", x, self.up))
            every = torch.einsum("beh,ehd->bed", hidden, self.down)
        else:
            every = torch.stack([expert(x) for expert in self.experts], 1)
        return self.head((weights[..., None] * every).sum(1))


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(1, 8), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 16))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return F.cosine_similarity(self.body(a), self.body(b))


class LoRA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base, self.a, self.b = nn.Linear(12, 32), nn.Linear(12, 4, bias=False), nn.Linear(4, 32, bias=False)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.base(x) + 2.0 * self.b(self.a(x))))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down = nn.Embedding(30, 16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 30, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens) + self.down(F.gelu(self.up(self.embed(tokens)))))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = (nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        return self.head(self.b(x) if float(x.sum()) >= 0 else self.c(x))


def sequence(norm: str) -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=norm == "pre")
    return nn.Sequential(
        nn.Linear(8, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3)
    )


def weight_norms(kind: str) -> nn.Module:
    wrap = {"weight": nn.utils.parametrizations.weight_norm, "spectral": nn.utils.parametrizations.spectral_norm}[kind]
    return nn.Sequential(wrap(nn.Linear(8, 32)), nn.ReLU(), wrap(nn.Linear(32, 16)), nn.ReLU(), nn.Linear(16, 3))


def _images(channels: int = 3, size: int = 32) -> tuple[Tensor, ...]:
    return (torch.randn(2, channels, size, size),)


def _tokens(length: int = 7, most: int = 30) -> Tensor:
    return torch.randint(0, most, (2, length))


def _edges() -> tuple[Tensor, Tensor]:
    return torch.randn(9, 6), torch.randint(0, 9, (2, 20))


OWN: dict[str, Callable[[], tuple[nn.Module, tuple[Any, ...]]]] = {
    "recurrent/lstm": lambda: (Recurrent("LSTM"), (_tokens(),)),
    "recurrent/lstm-1": lambda: (Recurrent("LSTM", 1), (_tokens(),)),
    "recurrent/lstm-both": lambda: (Recurrent("LSTM", 2, True), (_tokens(),)),
    "recurrent/gru": lambda: (Recurrent("GRU"), (_tokens(),)),
    "recurrent/gru-both": lambda: (Recurrent("GRU", 1, True), (_tokens(),)),
    "recurrent/rnn": lambda: (Recurrent("RNN"), (_tokens(),)),
    "recurrent/lstm-cell": lambda: (Cells("LSTMCell"), (torch.randn(2, 4, 6),)),
    "recurrent/gru-cell": lambda: (Cells("GRUCell"), (torch.randn(2, 4, 6),)),
    "recurrent/seq2seq": lambda: (Seq2Seq(), (_tokens(), _tokens(5))),
    "generative/vae": lambda: (VAE(), (torch.randn(2, 20),)),
    "generative/gan": lambda: (GAN(), (torch.randn(2, 16),)),
    "generative/diffusion": lambda: (Diffusion(), (*_images(3, 8), torch.tensor([3.0, 9.0]))),
    "generative/unet": lambda: (UNet(), _images()),
    "generative/pixel-shuffle": lambda: (
        nn.Sequential(conv(3, 16), nn.Conv2d(16, 32, 3, 1, 1), nn.PixelShuffle(2), nn.Conv2d(8, 3, 3, 1, 1)),
        _images(3, 8)
    ),
    "graph/adjacency": lambda: (Graph("adjacency"), _edges()),
    "graph/scatter": lambda: (Graph("scatter"), _edges()),
    "graph/index-add": lambda: (Graph("index"), _edges()),
    "audio/wavenet": lambda: (WaveNet(), (torch.randn(2, 1, 40),)),
    "audio/conv1d": lambda: (
        nn.Sequential(nn.Conv1d(1, 16, 9, 4), nn.InstanceNorm1d(16, affine=True), nn.GELU(), nn.Conv1d(16, 32, 5),
                      nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 4)), (torch.randn(2, 1, 100),)
    ),
    "video/conv3d": lambda: (
        nn.Sequential(nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(8, 16, 2),
                      nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, 3)), (torch.randn(2, 3, 8, 8, 8),)
    ),
    "detection/pyramid": lambda: (Detector(), _images()),
    "detection/yolo": lambda: (Yolo(), _images()),
    "detection/points": lambda: (PointNet(), (torch.randn(2, 3, 30),)),
    "recommender/dlrm": lambda: (Recommender(), (torch.randn(2, 5), torch.randint(0, 20, (2, 3)))),
    "recommender/wide-deep": lambda: (WideDeep(), ({"ids": torch.randint(0, 40, (2, 4)), "dense": torch.randn(2, 5)},)),
    "several/siamese": lambda: (Siamese(), (*_images(1, 8), *_images(1, 8))),
    "several/lora": lambda: (LoRA(), (torch.randn(2, 12),)),
    "several/tied": lambda: (Tied(), (_tokens(),)),
    "several/branching": lambda: (Branching(), (torch.randn(2, 8),)),
    "several/experts": lambda: (Experts(False), (torch.randn(2, 8),)),
    "several/experts-fused": lambda: (Experts(True), (torch.randn(2, 8),)),
    "several/encoder-pre": lambda: (sequence("pre"), (torch.randn(2, 5, 8),)),
    "several/encoder-post": lambda: (sequence("post"), (torch.randn(2, 5, 8),)),
    "several/weight-norm": lambda: (weight_norms("weight"), (torch.randn(2, 8),)),
    "several/spectral-norm": lambda: (weight_norms("spectral"), (torch.randn(2, 8),)),
    "several/mlp": lambda: (
        nn.Sequential(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)),
        _images(1, 28)
    ),
    "several/lenet-5": lambda: (
        nn.Sequential(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2),
                      nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)), _images(1, 28)
    ),
}  # fmt: skip
NAMES = (*OWN, *(f"transformers/{name}" for name in TRANSFORMERS), *(f"torchvision/{name}" for name in TORCHVISION),
         *(f"timm/{name}" for name in TIMM))  # fmt: skip


def build(name: str) -> tuple[nn.Module, tuple[tuple[Any, ...], dict[str, Any]]]:
    """A network in evaluation mode, and ``(args, kwargs)`` of two examples. No parameter is zero or one throughout."""
    if name in OWN:
        model, args = OWN[name]()
        kwargs: dict[str, Any] = {}
    else:
        source, _, what = name.partition("/")
        model, args, kwargs = {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers}[source](what)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.05 if parameter.dim() < 2 else 0.01))
    return model.eval(), (args, kwargs)


def _timm(what: str) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    import timm

    model = timm.create_model(what, num_classes=10)
    return model, (torch.randn(2, *model.default_cfg["input_size"]),), {}


def _torchvision(what: str) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    import torchvision

    kind, _, model = what.rpartition("/")
    options: dict[str, Any] = {"num_classes": 10}
    if model in ("googlenet", "inception_v3"):
        options |= {"init_weights": True, "aux_logits": False}
    if kind == "segmentation":
        options |= {"weights_backbone": None}
        return getattr(torchvision.models.segmentation, model)(**options), _images(3, 64), {}
    if kind == "video":
        return getattr(torchvision.models.video, model)(**options), (torch.randn(2, 3, 4, 32, 32),), {}
    size = 299 if model == "inception_v3" else 224
    return torchvision.models.get_model(model, **options), _images(3, size), {}


def _transformers(what: str) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    import transformers

    kind = getattr(transformers, what)
    model = kind(kind.config_class(**TRANSFORMERS[what]))
    if what.startswith(_PICTURES):
        size = 64 if what.startswith(("Segformer", "ConvNext", "ResNet")) else 32
        return model, (), {"pixel_values": _images(3, size)[0]}
    if what.startswith("Wav2Vec2"):
        return model, (), {"input_values": torch.randn(2, 400)}
    tokens = {"input_ids": torch.randint(3, 97, (2, 12)), "attention_mask": torch.ones(2, 12, dtype=torch.int64)}
    if what.startswith("Whisper"):
        return model, (), {"input_features": torch.randn(2, 8, 40), "decoder_input_ids": tokens["input_ids"]}
    if what.startswith("CLIP"):
        tokens["pixel_values"] = _images()[0]
    if what.startswith(_PAIRS):
        tokens["decoder_input_ids"] = tokens["input_ids"]
    return model, (), tokens
