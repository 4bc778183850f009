"""What torch functions do to a neuron: normalise, switch by a non-linearity, pass on, sum, pool or reshape it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


def _words(names: str) -> frozenset[str]:
    return frozenset(names.split())


NORMS = _words("batch_norm instance_norm SyncBatchNorm")
MIXING_NORMS = _words("layer_norm group_norm rms_norm local_response_norm native_layer_norm")
"""Their output for one neuron depends on the others, so a neuron without inputs does not become a constant."""

STATISTICS = _words("mean var std var_mean std_mean norm vector_norm")

SOFT = _words("gelu silu tanh sigmoid elu celu selu mish softplus prelu rrelu softsign logsigmoid tanhshrink")
HARD = _words("relu relu6 hardswish hardsigmoid softshrink hardshrink")
"""Exactly zero over a whole range of inputs (hardswish and hardsigmoid: below -3)."""

SMOOTH = _words(
    "sin cos tan exp exp2 expm1 log log1p square abs sqrt rsqrt reciprocal pow float_power erf atan arctan "
    "asinh arcsinh"
)
"""Non-linearities that also stand inside norms and losses, so that a product or a layer which reads the same value says
more of it."""

SEEN = _words("where maximum minimum fmax fmin round floor ceil trunc sign")
"""The same of those whose zeros depend on what they are given."""

DEPENDS = _words("leaky_relu threshold hardtanh clamp clip clamp_min clamp_max")
DROPOUTS = _words("dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout")
SAME = _words(
    "contiguous clone detach to float half double bfloat16 type type_as data requires_grad retain_grad cpu cuda "
    "identity alias share_memory positive"
)
SUMS = _words("add iadd radd sub isub rsub")
SCALES = _words("mul imul rmul div truediv itruediv true_divide neg multiply divide")
PRODUCTS = _words("mul imul rmul multiply div truediv itruediv true_divide divide")
MAX_POOLS = _words("max_pool1d max_pool2d adaptive_max_pool1d adaptive_max_pool2d")
AVG_POOLS = _words("avg_pool1d avg_pool2d")
ADAPTIVE = _words("adaptive_avg_pool1d adaptive_avg_pool2d")
POOLS = MAX_POOLS | AVG_POOLS | ADAPTIVE
TRANSPOSES = _words("permute transpose swapaxes swapdims movedim moveaxis t T mT")
PARTS = _words("chunk unsafe_chunk split unsafe_split split_with_sizes tensor_split getitem narrow glu")
REDUCES = _words("mean amax amin")
RESHAPES = _words("flatten view reshape unflatten squeeze unsqueeze ravel view_as reshape_as")
LINEAR = SUMS | SCALES | SAME | RESHAPES | TRANSPOSES
"""What, given one tensor and constants of the model, is no non-linearity."""

METADATA = _words(
    "dim size shape dtype device ndim numel nelement stride len layout data_ptr element_size storage_offset grad_fn "
    "repr hash names get_device version itemsize format ndimension register_hook output_nr grad dim_order"
)
IN_PLACE_OPERATORS = _words(
    "__iadd__ __isub__ __imul__ __itruediv__ __ifloordiv__ __ipow__ __imod__ __iand__ __ior__ __ixor__ __setitem__ "
    "__ilshift__ __irshift__ __imatmul__"
)


@dataclass(frozen=True)
class Op:
    """A torch function: ``name`` in one spelling for all its forms, ``key`` exact, ``in_place`` by its spelling."""

    name: str
    key: str
    in_place: bool


_seen: dict[Callable[..., Any], Op] = {}


def op_of(function: Callable[..., Any]) -> Op:
    """Names a function as handed to ``__torch_function__``: ``torch.relu_`` is "relu", key "torch.relu_", in place."""
    op = _seen.get(function)
    if op is None:
        op = _seen[function] = _named(function)
    return op


def _named(function: Callable[..., Any]) -> Op:
    raw = str(getattr(function, "__name__", type(function).__name__))
    if raw == "__get__":  # a property such as x.shape
        raw = str(getattr(getattr(function, "__self__", None), "__name__", raw))
    raw = raw.split(".")[0]
    module = getattr(function, "__module__", None) or "Tensor"
    in_place = raw in IN_PLACE_OPERATORS or (raw.endswith("_") and not raw.endswith("__"))
    return Op(raw.strip("_"), f"{module}.{raw}", in_place)


def is_metadata(name: str) -> bool:
    """True for functions that look at shapes, types and the like only."""
    return name in METADATA or name.startswith("is_")


def is_norm(name: str) -> bool:
    """True for operations that normalise their first argument."""
    return name in NORMS or name in MIXING_NORMS


def argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], position: int, name: str, default: Any = None) -> Any:
    """An argument given by position or by name."""
    return args[position] if len(args) > position else kwargs.get(name, default)


def non_linear(name: str) -> bool:
    """True for element-wise non-linearities."""
    return name in HARD or name in SOFT or name in DEPENDS


def normalises(module: str, inside: Iterable[str]) -> bool:
    """Whether a module of this name that calls these functions is a norm: it says nothing of whether a neuron fires."""
    called = set(inside)
    compares = "norm" in module.lower() or any(is_norm(name) or name in STATISTICS for name in called)
    return compares and not any(map(non_linear, called))


def exact_zero(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """True if a non-linearity, called like this, returns exactly zero over a whole range of inputs."""
    if name not in DEPENDS:
        return name in HARD
    if name == "leaky_relu":
        return _zero(argument(args, kwargs, 1, "negative_slope", 0.01))
    if name == "threshold":
        return _zero(argument(args, kwargs, 2, "value"))
    if name == "hardtanh":
        low, high = argument(args, kwargs, 1, "min_val", -1.0), argument(args, kwargs, 2, "max_val", 1.0)
    elif name == "clamp_max":
        low, high = None, argument(args, kwargs, 1, "max")
    else:
        low, high = argument(args, kwargs, 1, "min"), argument(args, kwargs, 2, "max")
    return _zero(low) or _zero(high)


def _zero(bound: Any) -> bool:
    return isinstance(bound, (int, float)) and bound == 0


def is_scalar_step(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """True for arithmetic with Python numbers, which keeps neurons apart."""
    others = (*args[1:], *kwargs.values())
    numbers = all(isinstance(other, (int, float, str, type(None))) for other in others)
    return (name in SCALES or name in SUMS) and numbers


def keeps_constants(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """True for pooling under which a constant channel stays that constant (no zeros are averaged in)."""
    if name in MAX_POOLS:
        return not (argument(args, kwargs, 6, "return_indices", False) or kwargs.get("return_indices"))
    if name in ADAPTIVE:
        return True
    if name not in AVG_POOLS:
        return False
    padding = argument(args, kwargs, 3, "padding", 0)
    padded = any(padding) if isinstance(padding, (tuple, list)) else bool(padding)
    counts_padding = argument(args, kwargs, 5, "count_include_pad", True)
    divisor = argument(args, kwargs, 6, "divisor_override")
    return divisor is None and not (padded and counts_padding)
