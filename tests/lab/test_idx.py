import gzip
import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from actprune.errors import DataError
from actprune.lab.idx import read_idx, write_idx

DTYPES = st.sampled_from(["u1", "i1", "i2", "i4", "f4", "f8"])
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(max_dims=4, max_side=4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("idx")


@given(array=ARRAYS, suffix=st.sampled_from(["", ".gz"]))
def test_idx_round_trip(folder, array, suffix):
    path = folder / f"a{suffix}"
    write_idx(path, array)
    found = read_idx(path)
    assert found.dtype == array.dtype
    assert found.dtype.isnative
    assert found.flags.writeable
    np.testing.assert_array_equal(found, array)


def test_idx_of_known_bytes(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes([0, 0, 0x0B, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0x01, 0x00, 0xFF, 0xFE]))
    np.testing.assert_array_equal(read_idx(path), np.array([[256, -2]], np.int16))


@settings(max_examples=10, deadline=None)  # a busy machine must not fail it
@given(array=hnp.arrays(DTYPES, hnp.array_shapes(max_dims=3, max_side=3)), suffix=st.sampled_from(["", ".gz"]))
def test_idx_truncated_at_every_byte(folder, array, suffix):
    path = folder / f"whole{suffix}"
    write_idx(path, array)
    whole, cut = path.read_bytes(), folder / f"cut{suffix}"
    for end in range(len(whole)):
        cut.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"cut.*bytes"):
            read_idx(cut)


def read_or_error(path):
    """Nothing but a DataError may come out of a bad file."""
    try:
        return read_idx(path)
    except DataError as error:
        return error


@given(data=st.data(), array=ARRAYS)
def test_a_damaged_gzip_never_gives_other_numbers(folder, data, array):
    path = folder / "damaged.gz"
    write_idx(path, array)
    damaged = bytearray(path.read_bytes())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(damaged)
    found = read_or_error(path)
    if isinstance(found, DataError):
        assert "damaged.gz" in str(found)
    else:  # a flag or time stamp of the gzip header, which no checksum covers
        np.testing.assert_array_equal(found, array)


@given(content=st.binary(max_size=40))
def test_arbitrary_bytes_are_a_data_error_or_an_array(folder, content):
    path = folder / "noise"
    path.write_bytes(content)
    found = read_or_error(path)
    assert "noise" in str(found) if isinstance(found, DataError) else found.ndim >= 1


@pytest.mark.parametrize("packed", [False, True])
def test_a_hostile_header_takes_no_memory(tmp_path, packed):
    content = bytes([0, 0, 8, 3]) + b"\x7f\xff\xff\xff" * 3 + bytes(100)
    path = tmp_path / "hostile"
    path.write_bytes(gzip.compress(content) if packed else content)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"hostile.*needs 99\d+ bytes, found"):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20


def test_a_gzip_bomb_stops_at_the_limit_and_at_its_header(tmp_path):
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(bytes([0, 0, 8, 1]) + (1 << 22).to_bytes(4, "big") + bytes(1 << 22)))
    with pytest.raises(DataError, match="claims 4194312 bytes"):
        read_idx(bomb, limit=1 << 20)
    bomb.write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 3]) + bytes(1 << 22)))
    with pytest.raises(DataError, match="expected 11 bytes, found more"):
        read_idx(bomb)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PNG!1234", "not an idx file: it starts with bytes 50 4e 47 21"),
        (bytes([0, 0, 7, 1, 0, 0, 0, 0]), "not an idx file"),
        (bytes([0, 0, 8, 0]), "1 to 8 dimensions"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 2, 9]), "needs 10 bytes, found 9 bytes"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 2, 9, 9, 9]), "needs 10 bytes, found 11 bytes"),
    ],
)
def test_wrong_idx_content(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(tmp_path / "x")


def test_idx_checks_content_and_reports_absence(tmp_path):
    write_idx(tmp_path / "a.gz", np.arange(3, dtype=np.uint8))
    good = hashlib.sha256(gzip.decompress((tmp_path / "a.gz").read_bytes())).hexdigest()
    assert read_idx(tmp_path / "a.gz", good).tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=f"is {good}, expected 00ff"):
        read_idx(tmp_path / "a.gz", "00ff")
    with pytest.raises(DataError, match=r"cannot read .*absent"):
        read_idx(tmp_path / "absent")
    with pytest.raises(DataError, match="cannot hold int64"):
        write_idx(tmp_path / "b", np.arange(3))
