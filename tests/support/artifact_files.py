"""Small programs, and files taken apart and put together again."""

import json
import re
import zlib

import torch

from actprune.artifact.container import DICTIONARY, Entry, assemble, digest
from actprune.artifact.entropy import varint
from actprune.program import Program, export
from support.nets import drawn_mlp


def program(density=0.2, sizes=(24, 16, 4), seed=0) -> Program:
    return export(drawn_mlp(density, sizes, seed), torch.zeros(2, sizes[0]))


def resealed(data: bytes) -> bytes:
    """The same bytes with the checksum they should have."""
    found = re.search(rb'"digest":"([^"]{32})"', data)
    if found is None:
        return data
    start = found.start(1)
    blank = data[:start] + b"0" * 32 + data[start + 32 :]
    return data[:start] + digest(blank).encode() + data[start + 32 :]


def blob_of(content):
    length = int.from_bytes(content[:8], "little")
    outer = json.loads(content[8 : 8 + length])
    start, stop = outer["actprune"]["data_offsets"]
    return content[8 + length + start : 8 + length + stop], outer, content[8 + length : 8 + length + start]


def numbers(blob):
    found, at = [], 0
    while len(found) < 2:
        value, shift = 0, 0
        while True:
            byte = blob[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                break
        found.append(value)
    return (*found, at)


def header_text(content):
    blob, _, _ = blob_of(content)
    header, _, at = numbers(blob)
    return zlib.decompressobj(-15, zdict=DICTIONARY).decompress(blob[at : at + header])


def deflated(text):
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=DICTIONARY)
    return deflate.compress(text) + deflate.flush()


def with_header(content, text):
    """The same file with another inflated header, all lengths and the checksum put right."""
    blob, outer, before = blob_of(content)
    header, stream, at = numbers(blob)
    packed = deflated(text)
    new = varint(len(packed)) + varint(stream) + packed + blob[at + header :]
    plain = {
        name: Entry(row["dtype"], tuple(row["shape"]), memoryview(before)[slice(*row["data_offsets"])])
        for name, row in outer.items() if name not in ("actprune", "__metadata__")
    }  # fmt: skip
    return assemble(plain, new)
