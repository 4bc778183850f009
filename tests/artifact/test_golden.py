"""A file of format 1, byte for byte: whatever changes later must still read it."""

import base64
from dataclasses import replace

import pytest
import torch

from actprune.artifact import build, document, from_bytes, to_bytes
from actprune.artifact.container import disassemble
from actprune.artifact.entropy import Cursor
from actprune.program import Program, Ref, Step

pytest.importorskip("constriction")
FILE = base64.b64decode(
    "jAAAAAAAAAB7Il9fbWV0YWRhdGFfXyI6eyJhY3RwcnVuZSI6IjEiLCJkaWdlc3QiOiIwYWE5OTllNDk3ZThjNjkzYmU0MzE2NjEz"
    "ZWJhZmI2NCJ9LCJhY3RwcnVuZSI6eyJkdHlwZSI6IlU4Iiwic2hhcGUiOlsxMDNdLCJkYXRhX29mZnNldHMiOlswLDEwM119fUUU"
    "w1nZorUeUas3jNquAlbPEazm0AwioV2AVg4jyhNgqxi5MIKVOLACxQxaFBmawSQQha8h1rIX2GHAWuqk5+ekABNNbS0AK1VAh7rg"
    "iyyFFWjY+YClBudnFpMAMAA0ADYAOAA5ADo="
)


def tiny():
    weight = torch.zeros(6, 10)
    for index, place in enumerate([(0, 1), (0, 2), (1, 2), (3, 2), (3, 3), (4, 7), (5, 9)]):
        weight[place] = (-1) ** index * (index % 3 + 1) / 4
    columns = torch.tensor([0, 2, 3, 5, 7, 8, 9, 11, 12, 15])
    tensors = {"fc.columns": columns, "fc.weight": weight, "fc.bias": torch.arange(1, 7) / 8}
    gather = Step("index_select", "index_select", (Ref("x"), -1, Ref("fc.columns")))
    linear = Step("linear", "linear", (Ref("index_select"), Ref("fc.weight"), Ref("fc.bias")))
    return Program(["x"], [gather, linear], Ref("linear"), tensors)


def tiny_document():
    """Range coded wherever possible, although a bit mask would be as small here."""
    model = tiny()
    kinds = {"fc.weight": "shared2", "fc.bias": "fp16"}
    doc = document(model.structure(), model.tensors(), kinds, {"method": "golden"})
    encodings = {"index": "coded", "shared2": "coded", "fp16": "all"}
    specs = [replace(spec, encoding=encodings[spec.kind]) for spec in doc.header.specs]
    return replace(doc, header=replace(doc.header, specs=specs))


def test_the_golden_file_is_read():
    doc = from_bytes(FILE)
    assert doc.header.about == {"method": "golden"}
    tensors, expected = doc.tensors(), from_bytes(to_bytes(tiny_document())).tensors()
    assert list(tensors) == list(expected)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    model, x = tiny(), torch.randn(3, 16)
    assert (build(doc)(x) - model(x)).abs().max() < 2  # seven weights in four values
    assert torch.equal(tensors["fc.columns"], model.state_dict()["fc.columns"])
    assert torch.equal(tensors["fc.bias"], model.state_dict()["fc.bias"])


def test_the_same_model_is_written_to_the_same_bytes():
    """All but the deflated header, whose bytes depend on the zlib in use."""
    assert behind_header(to_bytes(tiny_document())) == behind_header(FILE)
    assert from_bytes(FILE).header == from_bytes(to_bytes(tiny_document())).header


def behind_header(content):
    """The range coded stream and everything after it."""
    cursor = Cursor(disassemble(content)[1])
    header, stream = cursor.varint(), cursor.varint()
    cursor.take(header)
    return stream, bytes(cursor.take(cursor.left))
