"""L2: the operations a program may consist of. Whatever is not listed here is never called.

Names are those of ``torch.ops.aten`` without overload when it is "default" ("linear", "add.Tensor"), and those of
``operator`` for arithmetic on sizes ("operator.mul"). All are pure: in-place forms are known, because export rewrites
them, but they are never called.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from actprune.errors import ArtifactError

LAYERS = frozenset({"linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
                    "batch_norm", "layer_norm", "group_norm", "instance_norm", "embedding", "rms_norm", "_weight_norm",
                    "_native_batch_norm_legit"})  # fmt: skip
RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell",
                       "rnn_relu_cell"})  # fmt: skip
POINTWISE = frozenset({
    "add", "sub", "rsub", "mul", "div", "neg", "abs", "square", "pow", "sqrt", "rsqrt", "exp", "expm1", "log", "log1p",
    "reciprocal", "sin", "cos", "tanh", "erf", "sigmoid", "relu", "relu6", "leaky_relu", "prelu", "elu", "celu", "selu",
    "gelu", "silu", "mish", "hardtanh", "hardsigmoid", "hardswish", "softplus", "softsign", "softshrink", "hardshrink",
    "tanhshrink", "threshold", "log_sigmoid", "clamp", "clamp_min", "clamp_max", "maximum", "minimum", "where",
    "eq", "ne", "lt", "le", "gt", "ge", "logical_not", "logical_and", "logical_or", "masked_fill", "bitwise_not",
    "dropout", "feature_dropout", "alpha_dropout", "to", "type_as", "_to_copy", "clone", "contiguous", "detach",
    "alias", "lift_fresh_copy", "lift_fresh", "detach_", "round", "floor", "ceil", "sign", "zeros_like", "ones_like",
    "addcmul", "addcdiv", "glu", "fill", "zero", "floor_divide", "remainder", "fmod", "atan2", "isnan", "isinf",
    "bitwise_and", "bitwise_or", "bitwise_xor", "__and__", "__or__", "__xor__",
})  # fmt: skip
MOVEMENT = frozenset({
    "view", "reshape", "flatten", "unflatten", "_unsafe_view", "permute", "transpose", "t", "numpy_T", "unsqueeze",
    "squeeze", "expand", "expand_as", "cat", "concat", "stack", "chunk", "split", "split_with_sizes", "unbind",
    "mT", "select", "slice", "narrow", "flip", "roll", "index_select", "movedim", "repeat", "channel_shuffle",
    "pixel_shuffle", "pixel_unshuffle", "view_as", "reshape_as", "swapaxes", "repeat_interleave", "tile",
})  # fmt: skip
POOLS = frozenset({"max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
                   "adaptive_max_pool1d", "adaptive_max_pool2d", "upsample_nearest2d", "upsample_bilinear2d",
                   "upsample_bicubic2d", "upsample_nearest1d", "upsample_nearest3d", "upsample_linear1d",
                   "upsample_trilinear3d", "max_pool3d", "avg_pool3d", "adaptive_avg_pool3d", "adaptive_max_pool3d",
                   "im2col", "constant_pad_nd", "pad"})  # fmt: skip
MIXING = frozenset({"matmul", "bmm", "mm", "addmm", "baddbmm", "einsum", "scaled_dot_product_attention", "softmax",
                    "log_softmax", "_softmax", "mean", "sum", "amax", "amin", "max", "min", "var", "std", "norm",
                    "cumsum", "argmax", "topk", "triu", "tril", "linalg_vector_norm", "full", "arange", "ones", "zeros",
                    "full_like", "scalar_tensor", "new_zeros", "new_ones", "index", "gather", "slice_scatter",
                    "select_scatter", "copy", "mv", "dot", "vdot", "histc", "logsumexp", "any", "all", "sort",
                    "argsort", "scatter", "scatter_add", "index_add", "index_put", "index_copy", "cosine_similarity",
                    "triu_indices", "tril_indices"})  # fmt: skip
SIZES = frozenset({"sym_size", "sym_numel"})
KNOWN = LAYERS | RECURRENT | POINTWISE | MOVEMENT | POOLS | MIXING | SIZES


def _of_numbers(call: Callable[..., Any]) -> Callable[..., Any]:
    """Arithmetic on sizes: of a list or a string, a product or a format could be of any length."""

    def checked(*args: Any) -> Any:
        if any(isinstance(item, (str, bytes, list, tuple, dict)) for item in args):
            raise ArtifactError(f"arithmetic on {str(args)[:80]}; a program computes with numbers only")
        found = call(*args)
        if type(found) is int and not -_LARGEST <= found < _LARGEST:
            raise ArtifactError("a program computes with sizes below 2**63; one of this file's is larger")
        return found

    return checked


_LARGEST = 1 << 63
ARITHMETIC: dict[str, Callable[..., Any]] = {
    **{
        f"operator.{name}": _of_numbers(getattr(operator, name))
        for name in ("add", "sub", "mul", "floordiv", "mod", "neg")
    },
    "operator.getitem": operator.getitem,
}


def base(op: str) -> str:
    """The family of an operation: ``add_.Tensor`` -> ``add``."""
    name = op.partition(".")[0]
    return name if name in KNOWN else name.removesuffix("_")


def is_known(op: str) -> bool:
    """Whether a program may contain this operation."""
    return op in ARITHMETIC or base(op) in KNOWN


def function(op: str) -> Callable[..., Any]:
    """What an operation calls. Raises ArtifactError for anything that is not on the list."""
    if op in ARITHMETIC:
        return ARITHMETIC[op]
    name, _, overload = op.partition(".")
    packet = getattr(torch.ops.aten, name, None) if base(op) in KNOWN and name.isidentifier() else None
    found = getattr(packet, overload or "default", None) if (overload or "default").isidentifier() else None
    if not isinstance(found, torch._ops.OpOverload) or found._schema.is_mutable or op.endswith("."):
        raise ArtifactError(f"operation {op[:60]!r} is not one a program may contain; it was not called")
    return found


def name_of(target: Any) -> str:
    """The name under which an FX node's target is stored."""
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        name, overload = target._schema.name.partition("::")[2], target._overloadname
        return name if overload == "default" else f"{name}.{overload}"
    if getattr(target, "__module__", "") in ("_operator", "operator"):
        return f"operator.{target.__name__}"
    return str(target)
