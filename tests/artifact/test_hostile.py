"""Damaged and hostile files: one error type, little time, little memory, no code run."""

import json
import resource
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actprune.artifact import build, from_bytes, load, published, save, to_bytes
from actprune.artifact.container import Header, assemble
from actprune.artifact.entropy import varint
from actprune.artifact.save import described
from actprune.artifact.tensor import Spec
from actprune.errors import ArtifactError
from support.artifact_files import header_text, program, resealed, with_header

pytest.importorskip("constriction")
SPARSE = program()


def uncoded(doc, encoding):
    other = {"coded": encoding, "coded-all": "all"}
    specs = [replace(spec, encoding=other.get(spec.encoding, spec.encoding)) for spec in doc.header.specs]
    return replace(doc, header=replace(doc.header, specs=specs))


FILES = {
    "dense": to_bytes(described(program(1.0, (24, 16, 4)), "fp32")),
    "plain": to_bytes(described(program(1.0, (30, 20, 4)), "fp16")),
    "bits": to_bytes(uncoded(described(SPARSE, "shared3"), "bits")),
    "gaps": to_bytes(uncoded(described(SPARSE, "int4"), "gaps")),
    "coded": to_bytes(described(SPARSE, "shared3")),
    "rows": to_bytes(described(SPARSE, "int8row")),
    "published": to_bytes(published(SPARSE.structure(), SPARSE.tensors(), {"0.weight": 4, "2.weight": 3}, {})),
}


def outcome(data):
    """True when it loads; anything but an ArtifactError, or a halt, fails."""
    start = time.perf_counter()
    try:
        build(from_bytes(data))
    except ArtifactError:
        return False
    finally:
        assert time.perf_counter() - start < 30  # against hanging; a busy machine must not fail it
    return True


@pytest.mark.parametrize("name", FILES)
def test_the_unharmed_files_load(name):
    assert outcome(FILES[name])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_mutations_without_the_checksum_are_refused(name, data):
    changed = mutated(FILES[name], data)
    if changed != FILES[name]:
        assert not outcome(changed)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_mutations_behind_a_right_checksum_raise_nothing_else(name, data):
    outcome(resealed(mutated(FILES[name], data)))


def mutated(content, data):
    at = data.draw(st.integers(0, len(content) - 1))
    stop = min(len(content), at + data.draw(st.integers(1, 40)))
    how = data.draw(st.sampled_from(["flip", "truncate", "insert", "remove", "repeat", "ones"]))
    if how == "flip":
        return content[:at] + bytes([content[at] ^ 1 << data.draw(st.integers(0, 7))]) + content[at + 1 :]
    if how == "truncate":
        return content[:at]
    piece = {"insert": data.draw(st.binary(min_size=1, max_size=40)), "remove": b"", "repeat": 3 * content[at:stop],
             "ones": b"\xff" * (stop - at)}[how]  # fmt: skip
    return content[:at] + piece + content[at if how == "insert" else stop :]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_mutated_headers_raise_nothing_else(name, data):
    """Every number or name of the inflated header in turn becomes another one."""
    value = json.loads(header_text(FILES[name]))
    places = list(leaves(value))
    path = data.draw(st.sampled_from(places))
    new = data.draw(
        st.sampled_from(
            [0, 1, -1, 2**31, 2**39, 2**70, 1e300, None, True, "", "x", "c:fp32", [], {}, "0.weight", [2] * 9]
        )
    )
    place = value
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = new
    outcome(with_header(FILES[name], json.dumps(value).encode()))


def leaves(value, path=()):
    if isinstance(value, (dict, list)) and value:
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*path, key))
    if path:
        yield path


def lying(specs, stream=b"", raw=b"", structure=None):
    """A file whose header says whatever it likes."""
    header = Header(structure or SPARSE.structure(), specs, {}).deflated()
    return assemble({}, varint(len(header)) + varint(len(stream)) + header + stream + raw)


def refused(data, message):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    with pytest.raises(ArtifactError, match=message):
        build(from_bytes(data))
    assert time.perf_counter() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # KiB


@pytest.mark.parametrize("length", [2**63, 2**40, 10**6])
def test_a_header_longer_than_the_file(length):
    refused(length.to_bytes(8, "little") + FILES["coded"][8:], "truncated or no artifact")


@pytest.mark.parametrize("data", [b"", b"1234", b"\x00" * 8, b"\x02" + b"\x00" * 7 + b"{}"])
def test_files_that_are_hardly_there(data):
    refused(data, "truncated|not valid JSON|not a file written by actprune")


def test_an_ordinary_safetensors_file_is_not_an_artifact(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(3)}, tmp_path / "other")
    with pytest.raises(ArtifactError, match="not a file written by actprune"):
        load(tmp_path / "other")


def test_a_pickle_is_not_an_artifact(tmp_path):
    torch.save({"w": torch.zeros(3)}, tmp_path / "pickle")
    with pytest.raises(ArtifactError):
        load(tmp_path / "pickle")


def test_a_newer_format_says_so():
    refused(FILES["coded"].replace(b'"actprune":"1"', b'"actprune":"2"'), "upgrade actprune")


def test_one_flipped_bit_is_a_wrong_checksum():
    data = bytearray(FILES["coded"])
    data[-3] ^= 4
    refused(bytes(data), "checksum is wrong")


def test_a_header_that_inflates_without_end():
    refused(with_header(FILES["coded"], b" " * (1 << 27)), "longer than it may be")


def test_json_nested_deeply():
    refused(with_header(FILES["coded"], b"[" * 5000 + b"]" * 5000), "nested|not valid JSON|longer than")
    refused(with_header(FILES["coded"], b"[" * 100 + b"]" * 100), "nested more than 64")


def test_names_given_twice():
    text = header_text(FILES["coded"])
    refused(with_header(FILES["coded"], text.replace(b'{"structure"', b'{"about":{},"structure"')), "given twice")
    refused(with_header(FILES["coded"], text.replace(b'["2.weight"', b'["0.weight"')), "same name")


def test_numbers_that_are_none():
    refused(with_header(FILES["coded"], header_text(FILES["coded"]).replace(b'"about":{', b'"about":{"x":NaN,')), "NaN")


def test_overlapping_and_negative_offsets():
    for old, new in ((b'"data_offsets":[0,', b'"data_offsets":[-4,'), (b'"data_offsets":[0,', b'"data_offsets":[4,')):
        data = FILES["coded"].replace(old, new)
        length = int.from_bytes(data[:8], "little") + len(new) - len(old)
        refused(resealed(length.to_bytes(8, "little") + data[8:]), "impossible|not where its shape says")


@pytest.mark.parametrize("encoding", ["gaps", "bits", "coded", "coded-all", "all"])
def test_tensors_that_are_declared_too_large(encoding):
    refused(lying([Spec("w", (2**20, 2**18), encoding, "shared3")]), "the limit is")
    refused(lying([Spec("w", (2**13, 2**15), encoding, "shared3")]), "damaged or hostile")
    refused(lying([Spec("w", (2**30, 2**30), encoding, "shared3")]), "malformed|cannot be|impossible|limit")


@pytest.mark.parametrize("encoding", ["coded", "coded-all"])
def test_streams_that_would_take_long(encoding):
    refused(lying([Spec("w", (4000, 4000), encoding, "shared3")], b"\0" * 50), "take too long")
    refused(lying([Spec(f"w{i}", (1, 8000), "coded", "shared3") for i in range(90)], b"\0" * 50), "take too long")


def test_the_most_that_is_decoded_for_free_is_quick():
    outcome(lying([Spec("w", (1000, 900), "coded", "fp32")], bytes(range(256)) * 2))
    outcome(lying([Spec("w", (500_000,), "coded-all", "fp16")], bytes(range(256)) * 2))


def test_max_bytes_is_the_callers():
    with pytest.raises(ArtifactError, match="larger max_bytes"):
        from_bytes(FILES["coded"], max_bytes=1000)


def test_a_file_larger_than_max_bytes_is_not_read(tmp_path):
    path = save(SPARSE, tmp_path / "model")
    with pytest.raises(ArtifactError, match="larger max_bytes"):
        load(path, max_bytes=100)


@pytest.mark.parametrize(
    "op", ["os.system", "__import__", "operator.attrgetter", "save", "nonsense", "set_.source_Storage"]
)
def test_operations_that_are_not_listed_are_never_called(op):
    text = header_text(FILES["coded"]).replace(b'"relu","relu"', f'"relu","{op}"'.encode())
    refused(with_header(FILES["coded"], text), "not one a program may contain")


@pytest.mark.parametrize("name", ["__class__", "forward.__globals__", "a" * 300, "training", "..", ""])
def test_names_that_cannot_be_tensors(name):
    text = header_text(FILES["coded"]).replace(b'"0.weight"', json.dumps(name).encode())
    refused(with_header(FILES["coded"], text), ".")


@pytest.mark.parametrize(
    "spec",
    [
        Spec("w", (3,), "all", "index", "int64", 9),
        Spec("w", (3,), "all", "fp32", "int64"),
        Spec("w", (3,), "bits", "bool"),
        Spec("w", (3,), "coded", "index"),
        Spec("w", (3,), "coded", "raw", "int64"),
        Spec("w", (3,), "huffman", "fp32", "float32", 5),
        Spec("w", (3,), "huffman", "shared3", "float32", 99),
        Spec("w", (3,), "plain", "shared3"),
        Spec("w", (3, 3), "coded", "index", "int64", 9),
    ],
    ids=str,
)
def test_combinations_that_are_never_written(spec):
    refused(lying([spec]), "cannot be")


def test_an_index_of_another_length():
    refused(lying([Spec("w", (3,), "bits", "index", "int64", 8)], raw=b"\xff"), "has 8 entries; 3 expected")


def test_a_symbol_beyond_its_codebook():
    raw = bytes([0, 0, 0x3C]) + bytes([0xFF, 0xFF])
    refused(lying([Spec("w", (4,), "all", "shared4")], raw=raw), "a table of 1")


def test_a_gap_out_of_the_tensor():
    refused(lying([Spec("w", (4,), "gaps", "fp32")], raw=bytes([4, 1, 9])), "leads to cell 9")


def test_data_that_nobody_asked_for():
    refused(lying([], raw=b"12345"), "does not mention")


@pytest.mark.parametrize("rows", [2**20, 2**24, 2**26, 2**39])
def test_scales_for_rows_without_cells(rows):
    """An axis of length 0 does not make the rows free: int8row has a scale for each."""
    refused(lying([Spec("w", (rows, 0), "coded-all", "int8row")], b"\0" * 64), "too long|damaged or hostile|the limit")


@pytest.mark.parametrize(
    "step",
    [
        ["relu", "expand", ["linear", [10**8, 2, 16]]],
        ["relu", "repeat", ["linear", [2**20, 2**10]]],
        ["relu", "full", [[2**40], 1.0]],
        ["relu", "arange", [2**62]],
        ["relu", "repeat_interleave.self_int", ["linear", 10**7]],
        ["relu", "new_zeros", ["linear", [2**31, 2**31]]],
        ["relu", "cat", [["linear"] * 100_000, -1]],
        ["relu", "operator.mul", [[1, 2, 3], 10**12]],
    ],
    ids=lambda step: step[1],
)
def test_steps_that_would_take_the_users_memory(step, tmp_path):
    """Refused when the file is read; the argument that the message names lets a trusted file through."""
    value = json.loads(header_text(FILES["coded"]))
    steps = value["structure"]["steps"]
    steps[[row[0] for row in steps].index("relu")] = step
    data = with_header(FILES["coded"], json.dumps(value).encode())
    refused(data, ".")
    (tmp_path / "model").write_bytes(data)
    with pytest.raises(ArtifactError):
        load(tmp_path / "model")


def test_growth_is_the_callers(tmp_path):
    path = save(SPARSE, tmp_path / "model")
    value = json.loads(header_text(path.read_bytes()))
    steps = value["structure"]["steps"]
    row = next(row for row in steps if row[0] == "relu")
    row[1:] = ["repeat", [row[2][0], [2**21, 1]]]
    path.write_bytes(with_header(path.read_bytes(), json.dumps(value).encode()))
    with pytest.raises(ArtifactError, match=r"'relu' \(repeat\).*the bound is 67108864 bytes.*growth=") as caught:
        load(path)
    growth = float(str(caught.value).partition("growth=")[2].split()[0])
    load(path, growth=growth)
    load(path, growth=float("inf"))
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ArtifactError, match="expected a positive number"):
            load(path, growth=wrong)


@pytest.mark.parametrize("cells", [10**12, 2**39, 2**34, 2**28])
@pytest.mark.parametrize(
    "stored", ["gaps fp32", "gaps bool", "coded shared1", "bits index", "gaps index", "huffman shared1"]
)
def test_a_tiny_payload_that_claims_very_many_zeros(stored, cells):
    encoding, kind = stored.split()
    extent = {"index": cells, "shared1": 5 if encoding == "huffman" else 0}.get(kind, 0)
    dtype = {"index": "int64", "bool": "bool"}.get(kind, "float32")
    shape = (0,) if kind == "index" else (cells,)
    refused(lying([Spec("w", shape, encoding, kind, dtype, extent)], raw=bytes([1, 0, 0, 0])), ".")
