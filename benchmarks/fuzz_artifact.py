"""Loads mutated artifact files: nothing but ArtifactError may come of it, within a second each.

    python benchmarks/fuzz_artifact.py --files 100000 --jobs 1

Every base file (one per encoding) is truncated, bit-flipped, cut up, repeated and spliced; some mutations are made
inside the inflated header. Half of the files get a correct checksum afterwards, so that what is behind it is reached.
Writes docs/results/fuzz.json and docs/results/fuzz.md.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import re
import resource
import signal
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch import nn

from actprune.artifact import Document, build, from_bytes, published, to_bytes
from actprune.artifact.container import DICTIONARY, digest
from actprune.artifact.save import described
from actprune.errors import ArtifactError
from actprune.program import Program, export

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
DIGEST = re.compile(rb'"digest":"([0-9a-f]{32})"')
SECONDS = 1.0
Mutation = Callable[[bytearray, np.random.Generator], bytearray]


class TooSlowError(BaseException):
    """A load took longer than a second."""


def network(density: float) -> Program:
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Linear(24, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)]
    model = nn.Sequential(*layers).eval()
    for layer in (model[0], model[3]):
        layer.weight.data = torch.randn(layer.weight.shape, generator=generator)
        layer.weight.data *= torch.rand(layer.weight.shape, generator=generator) < density
    return export(model, torch.zeros(2, 24))


def base_files() -> dict[str, bytes]:
    """One file per encoding; the decoders are reached through the choices that sizes make, or by asking for them."""
    sparse, dense = network(0.2), network(1.0)
    weights = {"0.weight": 5, "3.weight": 4}
    files = {
        "dense fp32": to_bytes(described(dense, "fp32")),
        "dense int8row": to_bytes(described(dense, "int8row")),
        "coded shared": to_bytes(described(sparse, "shared3")),
        "coded fp16": to_bytes(described(sparse, "fp16")),
        "deep compression": to_bytes(published(sparse.structure(), sparse.tensors(), weights, {})),
    }
    for encoding in ("bits", "gaps"):
        files[encoding] = to_bytes(uncoded(described(sparse, "shared3"), encoding))
    return files


def uncoded(doc: Document, encoding: str) -> Document:
    """The same tensors without the range coder."""
    other = {"coded": encoding, "coded-all": "all"}
    specs = [replace(spec, encoding=other.get(spec.encoding, spec.encoding)) for spec in doc.header.specs]
    return replace(doc, header=replace(doc.header, specs=specs))


def flip(data: bytearray, rng: np.random.Generator) -> bytearray:
    for _ in range(rng.integers(1, 9)):
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    return data


def overwrite(data: bytearray, rng: np.random.Generator) -> bytearray:
    start = int(rng.integers(len(data)))
    size = int(rng.integers(1, 17))
    data[start : start + size] = bytes([rng.choice([0, 1, 127, 128, 255])]) * size
    return data


def noise(data: bytearray, rng: np.random.Generator) -> bytearray:
    start = int(rng.integers(len(data)))
    data[start : start + 16] = rng.bytes(16)
    return data


def truncate(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: rng.integers(len(data))]


def insert(data: bytearray, rng: np.random.Generator) -> bytearray:
    at = int(rng.integers(len(data) + 1))
    return data[:at] + bytearray(rng.bytes(int(rng.integers(1, 65)))) + data[at:]


def remove(data: bytearray, rng: np.random.Generator) -> bytearray:
    at = int(rng.integers(len(data)))
    return data[:at] + data[at + int(rng.integers(1, 65)) :]


def repeat(data: bytearray, rng: np.random.Generator) -> bytearray:
    at = int(rng.integers(len(data)))
    piece = data[at : at + int(rng.integers(1, 129))]
    return data[:at] + piece * int(rng.integers(2, 9)) + data[at:]


def digits(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Other numbers in the safetensors header: lengths, shapes and offsets that lie."""
    places = list(re.finditer(rb"\d+", data[:400]))
    place = places[rng.integers(len(places))]
    number = str(rng.choice([0, 1, 7, 255, 65536, 2**31, 2**40, 2**62])).encode()
    return data[: place.start()] + bytearray(number) + data[place.end() :]


def in_header(data: bytearray, rng: np.random.Generator) -> bytearray:
    """A mutation of the inflated header, deflated again, all lengths put right."""
    length = int.from_bytes(data[:8], "little")
    outer = json.loads(bytes(data[8 : 8 + length]))
    start, stop = outer["actprune"]["data_offsets"]
    blob = bytes(data[8 + length + start : 8 + length + stop])
    header, at = _varint(blob, 0)
    stream, at = _varint(blob, at)
    text = bytearray(zlib.decompressobj(-15, zdict=DICTIONARY).decompress(blob[at : at + header]))
    places = list(re.finditer(rb'\d+|"[^"]*"|\[\]|null', text))
    place, other = places[rng.integers(len(places))], places[rng.integers(len(places))]
    change = [
        lambda: str(rng.choice([0, 1, 2, 3, 17, 255, 4096, 2**31, 2**39, -1])).encode(),
        lambda: bytes(text[other.start() : other.end()]),
        lambda: b"[" * 80 + b"]" * 80,
        lambda: b"1e308",
    ][rng.choice(4, p=[0.45, 0.45, 0.05, 0.05])]()
    text[place.start() : place.end()] = change
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=DICTIONARY)
    packed = deflate.compress(bytes(text)) + deflate.flush()
    new = _as_varint(len(packed)) + _as_varint(stream) + packed + blob[at + header :]
    outer["actprune"].update(shape=[len(new)], data_offsets=[start, start + len(new)])
    head = json.dumps(outer, separators=(",", ":")).encode()
    return bytearray(len(head).to_bytes(8, "little") + head + bytes(data[8 + length : 8 + length + start]) + new)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


MUTATIONS: tuple[Mutation, ...] = (
    flip,
    overwrite,
    noise,
    truncate,
    insert,
    remove,
    repeat,
    digits,
    in_header,
    in_header,
)


def mutated(base: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    mutation = MUTATIONS[rng.integers(len(MUTATIONS))]
    data = bytes(mutation(bytearray(base), rng))
    repaired = mutation is in_header or rng.random() < 0.5
    return f"{mutation.__name__}{', checksum repaired' if repaired else ''}", resealed(data) if repaired else data


def resealed(data: bytes) -> bytes:
    """The same bytes with the checksum they should have."""
    found = DIGEST.search(data[:4096])
    if found is None:
        return data
    start = found.start(1)
    blank = data[:start] + b"0" * 32 + data[start + 32 :]
    return data[:start] + digest(blank).encode() + data[start + 32 :]


def outcome(data: bytes) -> str:
    """What loading these bytes comes to."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        build(from_bytes(data))
    except ArtifactError:
        return "ArtifactError"
    except TooSlowError:
        return "slow"
    except BaseException as error:
        return f"other: {type(error).__name__}: {str(error)[:60]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "loaded"


def _alarm(number: int, frame: FrameType | None) -> None:
    raise TooSlowError


def work(job: tuple[int, int]) -> dict[str, object]:
    seed, count = job
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _alarm)
    rng = np.random.default_rng(seed)
    files = base_files()
    names = sorted(files)
    counts: collections.Counter[str] = collections.Counter()
    by_kind: collections.Counter[str] = collections.Counter()
    slowest, begin = 0.0, time.perf_counter()
    for index in range(count):
        name = names[index % len(names)]
        how, data = mutated(files[name], rng)
        start = time.perf_counter()
        result = outcome(data)
        slowest = max(slowest, time.perf_counter() - start)
        counts[result] += 1
        by_kind[f"{name} / {how} / {result}"] += 1
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"counts": counts, "by_kind": by_kind, "slowest": slowest, "seconds": time.perf_counter() - begin,
            "peak_mib": memory}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    shares = [(asked.seed * 1000 + job, asked.files // asked.jobs) for job in range(asked.jobs)]
    if asked.jobs == 1:
        results = [work(shares[0])]
    else:
        with multiprocessing.get_context("spawn").Pool(asked.jobs) as pool:
            results = pool.map(work, shares)
    report(results, asked.out)


def report(results: list[dict[str, object]], out: Path) -> None:
    counts: collections.Counter[str] = collections.Counter()
    by_kind: collections.Counter[str] = collections.Counter()
    for result in results:
        counts.update(result["counts"])  # type: ignore[arg-type]
        by_kind.update(result["by_kind"])  # type: ignore[arg-type]
    seconds = max(float(result["seconds"]) for result in results)  # type: ignore[arg-type]
    slowest = max(float(result["slowest"]) for result in results)  # type: ignore[arg-type]
    memory = max(float(result["peak_mib"]) for result in results)  # type: ignore[arg-type]
    files = sum(counts.values())
    bad = {name: count for name, count in counts.items() if name not in ("loaded", "ArtifactError")}
    summary = {
        "files": files, "loaded": counts["loaded"], "artifact_error": counts["ArtifactError"],
        "other": sum(count for name, count in bad.items() if name != "slow"), "slow": counts["slow"], "bad": bad,
        "slowest_seconds": round(slowest, 3), "peak_mib": round(memory), "files_per_second": round(files / seconds),
        "by_kind": dict(sorted(by_kind.items())),
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    (out / "fuzz.json").write_text(json.dumps(summary, indent=1) + "\n")
    (out / "fuzz.md").write_text(text(summary))
    print(text(summary))


def text(summary: dict[str, object]) -> str:
    names = ("files", "loaded", "artifact_error", "other", "slow", "slowest_seconds", "peak_mib", "files_per_second")
    rows = "\n".join(f"| {name.replace('_', ' ')} | {summary[name]} |" for name in names)
    return (
        '# Mutated files\n\n`python benchmarks/fuzz_artifact.py`: what loading them came to. "other" is any exception '
        f'but ArtifactError, "slow" more than a second.\n\n| | |\n|---|---|\n{rows}\n'
    )


if __name__ == "__main__":
    main()
