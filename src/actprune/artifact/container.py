"""L4: the file: valid safetensors, checked byte by byte before anything in it is believed.

    8 bytes  length of what follows      JSON  {"__metadata__": {"actprune": "1", "digest": ...}, entries}      data

Tensors in the plain encoding are ordinary entries. One more entry, "actprune" (U8), holds the deflated header, the
range coded stream and the other encodings. The digest is a 16-byte blake2b over the whole file with the digest itself
as zeros.

The header is structure, tensor table and what the author says about the model, as JSON deflated with a preset
dictionary.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actprune.artifact.tensor import Spec
from actprune.artifact.values import Kind
from actprune.errors import ArtifactError
from actprune.program.nodes import DTYPES

VERSION = "1"
ENTRY = "actprune"
_DIGEST_BYTES = 16
_BLANK = "0" * (2 * _DIGEST_BYTES)
_LONGEST_HEADER = 1 << 22
_SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
NAMES = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}


@dataclass(frozen=True)
class Entry:
    """One tensor of a safetensors file: dtype in safetensors' words, little-endian data."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def assemble(plain: Mapping[str, Entry], blob: bytes) -> bytes:
    """The whole file. Larger element types come first, so that every entry is aligned for readers that map files."""
    order = sorted(plain, key=lambda name: -_SIZES[plain[name].dtype])
    entries = {name: plain[name] for name in order} | {ENTRY: Entry("U8", (len(blob),), memoryview(blob))}
    header: dict[str, Any] = {"__metadata__": {"actprune": VERSION, "digest": _BLANK}}
    at = 0
    for name, entry in entries.items():
        header[name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [at, at + len(entry.data)]}
        at += len(entry.data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8 if plain else 0)
    content = len(text).to_bytes(8, "little") + text + b"".join(entry.data for entry in entries.values())
    return content.replace(_BLANK.encode(), digest(content).encode(), 1)


def digest(content: bytes) -> str:
    """Hexadecimal digest of a file whose own digest is still blank."""
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).hexdigest()


def disassemble(content: bytes) -> tuple[dict[str, Entry], memoryview]:
    """The plain entries, and the contents of the entry "actprune". Raises ArtifactError when anything is amiss."""
    text, data = _halves(content)
    header = strict_json(text, "the safetensors header")
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    _check_metadata(metadata, content)
    entries, at = {}, 0
    rows = sorted(((_entry(name, row), name) for name, row in header.items()), key=lambda item: item[0][2:])
    for (dtype, shape, start, stop), name in rows:
        if start != at or stop - start != math.prod(shape) * _SIZES[dtype] or stop > len(data):
            raise ArtifactError(f"the bytes of {name[:80]!r} are not where its shape says; the file is damaged")
        entries[name], at = Entry(dtype, shape, data[start:stop]), stop
    if at != len(data):
        raise ArtifactError(f"{len(data) - at} bytes at the end of the file belong to no tensor; the file is damaged")
    blob = entries.pop(ENTRY, None)
    if blob is None or blob.dtype != "U8":
        raise ArtifactError(f"the entry {ENTRY!r} is missing; this safetensors file was not written by actprune")
    return entries, blob.data


def _halves(content: bytes) -> tuple[bytes, memoryview]:
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(len(content) - 8, _LONGEST_HEADER):
        raise ArtifactError(
            f"a header of {length} bytes is announced in a file of {len(content)}; the file is truncated or no artifact"
        )
    return content[8 : 8 + length], memoryview(content)[8 + length :]


def _check_metadata(metadata: Any, content: bytes) -> None:
    """Version first: a newer file may well have another digest."""
    if not isinstance(metadata, dict) or "actprune" not in metadata:
        raise ArtifactError("this is not a file written by actprune: its metadata does not say so")
    if metadata["actprune"] != VERSION:
        raise ArtifactError(
            f"the file has format {str(metadata['actprune'])[:20]!r}; this actprune reads {VERSION!r}: upgrade actprune"
        )
    found = str(metadata.get("digest")).encode()
    if len(found) != len(_BLANK) or digest(content.replace(found, _BLANK.encode(), 1)).encode() != found:
        raise ArtifactError(
            "the file's checksum is wrong: it was damaged or changed after it was written; copy it again"
        )


def _entry(name: str, row: Any) -> tuple[str, tuple[int, ...], int, int]:
    try:
        dtype, shape, (start, stop) = row["dtype"], tuple(row["shape"]), row["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"the entry {name[:80]!r} is malformed") from error
    numbers = (*shape, start, stop)
    if dtype not in _SIZES or len(shape) > 16 or not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers):
        raise ArtifactError(f"the entry {name[:80]!r} has an impossible type, shape or offset")
    return dtype, shape, start, stop


# ---- JSON that is not believed --------------------------------------------------------------------------------------


_DEEPEST = 64


def strict_json(text: bytes, what: str) -> Any:
    """Parsed JSON without repeated keys, NaN, or deep nesting. Raises ArtifactError naming ``what``."""
    try:
        value = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{what} is not valid JSON ({str(error)[:80]}); the file is damaged") from error
    layer, depth = [value], 0
    while layer:  # by layers, as what is checked here must not recurse either
        depth += 1
        layer = [inner for item in layer for inner in _inner(item)]
        if depth > _DEEPEST:
            raise ArtifactError(f"{what} is nested more than {_DEEPEST} levels deep")
    return value


def _inner(item: Any) -> Sequence[Any]:
    if isinstance(item, dict):
        return list(item.values())
    return item if isinstance(item, list) else ()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _refused(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


# ---- the header -----------------------------------------------------------------------------------------------------


_LETTERS = {"plain": "p", "all": "a", "bits": "b", "gaps": "g", "coded": "c", "coded-all": "d",
            "huffman": "h"}  # fmt: skip
_ENCODINGS = {letter: name for name, letter in _LETTERS.items()}
_INFLATED = 1 << 22  # bytes: far above any header that is written


@dataclass(frozen=True)
class Header:
    """structure: of the Program; specs: every tensor in stored order; about: JSON values from whoever saved it."""

    structure: Mapping[str, Any]
    specs: Sequence[Spec]
    about: Mapping[str, Any] = field(default_factory=dict)

    def deflated(self) -> bytes:
        """Bytes for the file. Raises ArtifactError when ``about`` holds anything but JSON values."""
        rows = [_row(spec) for spec in self.specs]
        value = {"structure": self.structure, "tensors": rows, "about": self.about}
        try:
            text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ArtifactError(f"`about` must hold finite JSON values only: {error}") from error
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=DICTIONARY)
        return deflate.compress(text) + deflate.flush()

    @classmethod
    def inflated(cls, data: bytes | memoryview, limit: int = _INFLATED) -> Header:
        """Inverse of ``deflated``. Raises ArtifactError for anything it cannot have written."""
        inflate = zlib.decompressobj(-15, zdict=DICTIONARY)
        try:
            text = inflate.decompress(data, min(limit, 4096 + 256 * len(data)))
        except zlib.error as error:
            raise ArtifactError(f"the header cannot be inflated: {error}") from error
        if not inflate.eof or inflate.unused_data:
            raise ArtifactError("the header is longer than it may be, or cut off")
        value = strict_json(text, "the header")
        try:
            structure, rows, about = value["structure"], value["tensors"], value["about"]
        except (TypeError, KeyError) as error:
            raise ArtifactError("the header lacks its structure, tensors or about") from error
        if not (isinstance(structure, dict) and isinstance(rows, list) and isinstance(about, dict)):
            raise ArtifactError("the header's structure, tensors or about is of the wrong type")
        return cls(structure, _specs(rows), about)


def _row(spec: Spec) -> list[Any]:
    row = [spec.name, list(spec.shape), f"{_LETTERS[spec.encoding]}:{spec.kind}"]
    extent = [spec.extent] if spec.extent else []
    return [*row, spec.dtype, *extent] if spec.dtype != "float32" or extent else row


def _specs(rows: list[Any]) -> list[Spec]:
    specs = [_spec(row) for row in rows]
    if len({spec.name for spec in specs}) != len(specs):
        raise ArtifactError("two tensors in the header have the same name")
    return specs


def _spec(row: Any) -> Spec:
    try:
        name, shape, stored, dtype, extent = [*row, "float32", 0][:5] if len(row) == 3 else [*row, 0][:5]
        letter, _, kind = stored.partition(":")
        spec = Spec(name, tuple(shape), _ENCODINGS[letter], kind, dtype, extent)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ArtifactError(f"a row of the tensor table is malformed: {str(row)[:80]}") from error
    sizes = (*spec.shape, extent)
    if not isinstance(name, str) or len(shape) > 16 or not all(type(n) is int and 0 <= n < 1 << 40 for n in sizes):
        raise ArtifactError(f"a row of the tensor table has an impossible name or shape: {str(row)[:80]}")
    _check_kind(spec)
    return spec


def _check_kind(spec: Spec) -> None:
    """Only what is ever written: every other combination of dtype, kind and encoding is refused."""
    fits = {
        "index": spec.dtype == "int64" and len(spec.shape) == 1 and spec.encoding in ("bits", "gaps", "coded"),
        "bool": spec.dtype == "bool" and spec.encoding in ("bits", "gaps", "coded"),
        "raw": spec.dtype in DTYPES and spec.encoding == "all",
    }.get(spec.kind)
    if fits is None:
        kind = Kind.of(spec.kind)
        needed = {"plain": "float", "huffman": "shared"}.get(spec.encoding, kind.family)
        fits = spec.dtype in ("float32", "float16", "bfloat16") and kind.family == needed
    if spec.encoding == "huffman":
        fits = fits and 1 <= spec.extent <= 8
    elif spec.extent and spec.kind != "index":
        fits = False
    if not fits or math.prod(spec.shape) >= 1 << 48:
        raise ArtifactError(f"tensor {spec.name[:80]!r} cannot be {spec.dtype} as {spec.kind[:20]} in {spec.encoding}")


# ---- the preset dictionary ------------------------------------------------------------------------------------------


# Part of format 1: it must never change, or files written before could not be read. Deflate finds the end of it
# cheapest, so the most common text comes last.
_RECIPES = (
    '"WandaSnipApozRandomGradientMagnitudeneuron_weightRewindReinitialiseNeuronChannelHeadBlockEqualSurvivorsLayerByLayer'
    '"cifar10fashion-mnistdigitslenet-300-100lenet-5-caffemlpresnet20wandasniprandomapoz"schedule":{"type":"Cubic",'
    '"begin":0,"end":1000,"every":100},"schedule":{"type":"OneShot","at_step":null},"unit":{"type":"Neuron"},'
    '"criterion":{"type":"Apoz","fires_above":null},"criterion":{"type":"Magnitude"},"budget":{"type":"Budget",'
    '"kind":"compression","scope":"row","scope":"global","allocation":"erk","count_on":"observe","skip_output":false,'
    '"keep_at_least":0,"remove_orphans":false,"orphans_inside":true,'
)
_CONVOLUTIONS = (
    '["operator.mul",["sym_size.int",["transpose","transpose.int",["unflatten.int",["select.int",["squeeze.dim",["unsqueeze"'
    '["scaled_dot_product_attention","scaled_dot_product_attention",["self_attn.in_proj_weight","self_attn.out_proj.bias"'
    '["permute","permute",["softmax","softmax.int",["matmul","matmul",["gelu","gelu",["cat","cat",[["max_pool2d",'
    '"max_pool2d",["relu",[2,2],[2,2]]],["mean","mean.dim",["layer_norm","layer_norm",["add",[16],"norm1.weight",'
    '"norm1.bias",1e-05,false]],["reshape","reshape",["relu",[-1,"features.0.weight","downsample.0.weight",'
    '"layer1.0.bn1.num_batches_tracked",[],"a:raw","int64"],"blocks.0.conv1.weight",[16,16,3,3],"c:shared4"],"bn.bias",'
    '{"inputs":["x"],"steps":[["conv2d","conv2d",["x","conv1.weight","conv1.bias",[1,1],[0,0],[1,1],1]],["batch_norm",'
    '"batch_norm",["conv2d","bn1.weight","bn1.bias","bn1.running_mean","bn1.running_var",false,0.1,1e-05,false]],'
    '["relu","relu",["batch_norm"]],["conv2d_1","conv2d",["relu","conv2.weight",null,[1,1],[1,1]]],["batch_norm_1",'
    '"batch_norm",["conv2d_1","bn2.weight","bn2.bias","bn2.running_mean","bn2.running_var",false,0.1,1e-05,false]],'
    '["add","add.Tensor",["batch_norm_1","relu"]],["relu_1","relu",["add"]],["adaptive_avg_pool2d","adaptive_avg_pool2d",'
    '["relu_1",[1,1]]],["flatten","flatten.using_ints",["adaptive_avg_pool2d",1]],["linear","linear",["flatten",'
    '"fc.weight","fc.bias"]]],"result":"linear"},'
)
_MLP = (
    '{"structure":{"inputs":["input"],"steps":[["linear","linear",["input","0.weight","0.bias"]],["relu","relu",["linear"]],'
    '["flatten","flatten.using_ints",["input",1]],["linear_inputs","index_select",["flatten",-1,"fc1.columns"]],'
    '["linear","linear",["linear_inputs","fc1.weight","fc1.bias"]],["relu","relu",["linear"]],["linear_1","linear",'
    '["relu","fc2.weight","fc2.bias"]],["relu_1","relu",["linear_1"]],["linear_2","linear",["relu_1","fc3.weight",'
    '"fc3.bias"]],["relu_2","relu",["linear_2"]],["linear_3","linear",["relu_2","fc4.weight","fc4.bias"]],["relu_3",'
    '"relu",["linear_3"]],["linear_4","linear",["relu_3","fc5.weight","fc5.bias"]]],"result":"linear_4"},"tensors":'
    '[["fc1.weight",[300,784],"c:shared4"],["fc1.bias",[300],"d:shared3"],["fc1.columns",[400],"c:index","int64",784],'
    '["fc2.weight",[200,300],"c:shared3"],["fc2.bias",[200],"d:shared3"],["fc3.weight",[100,200],"c:shared3"],'
    '["fc3.bias",[100],"d:shared2"],["fc4.weight",[50,100],"c:shared4"],["fc4.bias",[50],"a:fp32"],["fc5.weight",'
    '[10,50],"d:int5"],["fc5.bias",[10],"a:shared2"]],"about":{"method":"magnitude","data":"mnist","model":"article",'
    '"seed":0,"asked":0.990,"obtained":0.990,"validation_accuracy":0.98,"test_accuracy":0.98,"recipe":{"type":"Recipe",'
    '"name":"activation","criterion":{"type":"CounterTimesWeight","count":"nonzero","across":"layer_mean","fires_above":'
    'null},"budget":{"type":"Budget","kind":"sparsity","value":0.990,"of":"prunable"},"schedule":{"type":'
    '"AccuracyTriggered","cycles":5,"start":0.8,"stop":0.98,"decay":0.8},"recovery":{"type":"Keep"},"unit":{"type":'
    '"Weight"},"scope":"layer","allocation":"uniform","count_on":"train","count_every":1,"regrow":"frozen","monotone":'
    'true,"skip_output":true,"keep_at_least":1,"remove_orphans":true,"orphans_inside":true,"allow_collapse":[],'
    '"reset_counts":false,"seed":0},"fingerprint":"","shape":[1,28,28],"versions":{"actprune":"0.1.0","torch":"2.13.0",'
    '"constriction":"0.5.0"}}}'
)
DICTIONARY = (_RECIPES + _CONVOLUTIONS + _MLP).encode()
