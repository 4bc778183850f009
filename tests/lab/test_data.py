import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from actprune.errors import DataError
from actprune.lab import known
from actprune.lab.data import check_compatible, load
from actprune.lab.idx import write_idx


@pytest.fixture
def arrays():
    rng = np.random.RandomState(1)
    x = rng.randint(0, 256, (50, 6, 5), np.uint8)
    return {"x_train": x[:40], "y_train": np.arange(40) % 4, "x_test": x[40:], "y_test": np.arange(10) % 4}


def write_folder(folder, arrays, suffix=".gz"):
    folder.mkdir(parents=True, exist_ok=True)
    for name, key in zip(known.FILES, ("x_train", "y_train", "x_test", "y_test"), strict=True):
        write_idx(folder / (name + suffix), arrays[key].astype(np.uint8))
    return folder


def test_digits():
    data = load("digits")
    assert [len(y) for _, y in (data.train, data.validation, data.test)] == [1293, 144, 360]
    assert (data.name, data.classes, data.shape) == ("digits", 10, (1, 8, 8))
    for x, y in (data.train, data.validation, data.test):
        assert x.dtype == torch.float32
        assert y.dtype == torch.int64
        assert x.min() == 0
        assert x.max() == 1
        assert y.unique().tolist() == list(range(10))
    assert data.test[1].bincount().tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]  # stratified
    again = load("digits")
    assert all(torch.equal(a, b) for a, b in zip(data.train + data.test, again.train + again.test, strict=True))
    assert data.fingerprint == again.fingerprint
    assert not torch.equal(data.test[1], load("digits", seed=1).test[1])


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_folder_of_idx_files(tmp_path, arrays, suffix):
    data = load(write_folder(tmp_path / "own", arrays, suffix))
    assert (data.name, data.classes, data.shape) == ("own", 4, (1, 6, 5))
    expected = torch.from_numpy(arrays["x_test"].astype(np.float32) / np.float32(255))[:, None]
    assert torch.equal(data.test[0], expected)
    assert data.test[1].tolist() == arrays["y_test"].tolist()


def test_fingerprint_depends_on_the_content_alone(tmp_path, arrays):
    plain, packed = (load(write_folder(tmp_path / s[1:], arrays, s)) for s in ("", ".gz"))
    assert plain.fingerprint == packed.fingerprint
    assert len(plain.fingerprint) == 64
    assert load(tmp_path, validation=0.5).fingerprint == plain.fingerprint
    arrays["x_test"] = arrays["x_test"].copy()
    arrays["x_test"][3, 0, 0] ^= 1
    assert load(write_folder(tmp_path / "other", arrays)).fingerprint != plain.fingerprint


def test_fingerprint_and_data_do_not_depend_on_byte_order(tmp_path, arrays):
    for order in "<>":
        swapped = {key: value.astype(f"{order}f4" if key[0] == "x" else f"{order}i4") for key, value in arrays.items()}
        np.savez(tmp_path / f"{'big' if order == '>' else 'little'}.npz", **swapped)
    big, little = load(tmp_path / "big.npz"), load(tmp_path / "little.npz")
    assert big.fingerprint == little.fingerprint
    assert torch.equal(big.train[0], little.train[0])
    assert torch.equal(big.test[1], little.test[1])


def test_validation_is_the_end_of_a_fixed_permutation(tmp_path, arrays):
    arrays["x_train"] = np.arange(40, dtype=np.float32)[:, None]
    arrays["x_test"] = np.zeros((10, 1), np.float32)
    np.savez(tmp_path / "d.npz", **arrays)
    data = load(tmp_path / "d.npz")
    order = np.random.RandomState(0).permutation(40)
    assert order[36:].tolist() == [9, 38, 3, 0]
    assert data.validation[0].flatten().tolist() == order[36:].tolist()
    assert data.train[0].flatten().tolist() == order[:36].tolist()
    assert torch.equal(data.train[1], data.train[0].flatten().long() % 4)  # labels went along
    assert len(load(tmp_path / "d.npz", validation=0.25).validation[1]) == 10
    for senseless in (0, 1, -0.1, 0.001, float("nan")):
        with pytest.raises(DataError, match=r"validation=.*of 40 training examples"):
            load(tmp_path / "d.npz", validation=senseless)


def test_npz_with_its_own_validation_and_a_folder_with_one_npz(tmp_path, arrays):
    np.savez_compressed(tmp_path / "d.npz", x_val=arrays["x_test"][:3], y_val=arrays["y_test"][:3], **arrays)
    data = load(tmp_path)
    assert [len(y) for _, y in (data.train, data.validation, data.test)] == [40, 3, 10]
    np.savez(tmp_path / "e.npz", **arrays)
    with pytest.raises(DataError, match=r"exactly one \.npz file, or .*; found d\.npz, e\.npz"):
        load(tmp_path)


def test_npz_without_the_arrays_or_with_pickles(tmp_path, arrays):
    np.savez(tmp_path / "less.npz", x_train=arrays["x_train"], y=arrays["y_train"])
    with pytest.raises(DataError, match="holds x_train, y; expected x_train, y_train, x_test, y_test"):
        load(tmp_path / "less.npz")
    np.savez(tmp_path / "half.npz", x_val=arrays["x_test"], **arrays)
    with pytest.raises(DataError, match="both x_val and y_val"):
        load(tmp_path / "half.npz")
    np.savez(tmp_path / "pickle.npz", **{**arrays, "x_test": np.array([{}, 1], object)})
    with pytest.raises(DataError, match=r"x_test\.npy holds Python objects"):
        load(tmp_path / "pickle.npz")


def test_npz_truncated_or_hostile(tmp_path, arrays):
    whole, cut = tmp_path / "whole.npz", tmp_path / "cut.npz"
    np.savez_compressed(whole, **arrays)
    content = whole.read_bytes()
    for end in range(0, len(content), 7):
        cut.write_bytes(content[:end])
        with pytest.raises(DataError, match=r"cut\.npz"):
            load(cut)
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }\n"
    with zipfile.ZipFile(cut, "w") as archive:
        for name in arrays:
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"1234")
    with pytest.raises(DataError, match=r"x_train\.npy claims shape \(1000000, 1000000\).*found 86 bytes"):
        load(cut)


def test_incomplete_folder_and_unknown_names(tmp_path, arrays, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "own", arrays)
    (tmp_path / "own" / f"{known.TEST_Y}.gz").unlink()
    with pytest.raises(DataError, match="lacks t10k-labels-idx1-ubyte; expected train-images"):
        load("own")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"exactly one \.npz file, or .*; found neither"):
        load("empty")
    with pytest.raises(DataError, match="unknown data set 'fashion_mnist'; did you mean 'fashion-mnist'"):
        load("fashion_mnist")


# --- the checks every source must pass


def spoiled(arrays, key, value):
    return {**arrays, key: value}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("y_train", np.arange(39) % 4, "train: 40 examples but 39 labels"),
        ("y_test", np.arange(10) % 5, "test: label 4 at index 4 .2 such labels.; expected integers 0..3"),
        ("y_train", np.arange(40) % 4 - 1, "train: label -1 at index 0"),
        ("y_train", (np.arange(40) % 4).astype(float), "y of train has shape .40,. and dtype float64"),
        ("y_train", np.eye(40, 4, dtype=int), "y of train has shape .40, 4."),
        ("y_train", np.arange(40) * 1000, "largest label is 39000 but there are only 40 examples"),
        ("y_train", np.zeros(40, int), "found 1 class"),
        ("x_test", np.zeros((10, 5, 6), np.uint8), "test: examples have shape .1, 5, 6., those of train .1, 6, 5."),
        ("x_test", np.zeros((0, 6, 5), np.uint8), "x of test is empty .shape .0, 6, 5.."),
        ("x_test", np.zeros((10, 6, 5), np.int64), "x of test has dtype int64; expected uint8"),
        ("x_test", np.full((10, 6, 5), np.nan, np.float32), "x of test holds nan at index .0, 0, 0."),
        ("x_test", np.full((10, 6, 5), 1e300), r"x of test holds 1e\+300 .*finite float32"),
        ("x_test", np.zeros(10, np.uint8), "x of test has shape .10,.; expected images"),
        ("x_test", np.zeros((10, 6, 5, 3), np.uint8), "channels last; expected .N, C, H, W."),
        ("x_test", np.array(["a"] * 10)[:, None], "x of test has dtype <U1"),
    ],
)
def test_inconsistent_data(tmp_path, arrays, key, value, message):
    np.savez(tmp_path / "bad.npz", **spoiled(arrays, key, value))
    with pytest.raises(DataError, match=rf"bad\.npz: .*{message}"):
        load(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("dtype", "expected"), [(np.uint8, 1 / 255), (np.float32, 1.0), (np.float16, 1.0), (bool, 1.0)]
)
def test_what_is_scaled(tmp_path, arrays, dtype, expected):
    ones = {key: np.ones(value.shape, dtype) for key, value in arrays.items() if key[0] == "x"}
    np.savez(tmp_path / "d.npz", **{**arrays, **ones})
    x = load(tmp_path / "d.npz").test[0]
    assert x.dtype == torch.float32
    assert x.unique().tolist() == [np.float32(expected)]


def test_paths_may_be_path_objects(tmp_path, arrays):
    np.savez(tmp_path / "own.data.npz", **arrays)
    assert load(Path(tmp_path / "own.data.npz")).name == "own.data.npz"


# --- check_compatible


class Takes(nn.Module):
    def __init__(self, features, returned):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(features, 10), nn.BatchNorm1d(10), nn.Dropout())
        self.returned = returned

    def forward(self, x):
        return self.returned(self.body(x))


def test_check_compatible_leaves_the_model_alone():
    model = Takes(64, lambda y: y + torch.rand(1))
    model.body[3].eval()
    before, rng = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    check_compatible(load("digits"), model)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert [m.training for m in model.body] == [True, True, True, False]
    assert torch.equal(rng, torch.get_rng_state())
    assert model.body[1].weight.grad is None


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Takes(784, lambda y: y), r"shape \(1, 8, 8\) and 10 classes.*fails on an input \(2, 1, 8, 8\).*use a model"),
        (Takes(64, lambda y: y[:, :9]), r"returns shape \(2, 9\) for an input \(2, 1, 8, 8\)"),
        (Takes(64, lambda y: (y, y)), "returns a tuple"),
        (nn.Identity(), r"returns shape \(2, 1, 8, 8\)"),
    ],
)
def test_check_compatible_names_shapes(model, message):
    with pytest.raises(DataError, match=message):
        check_compatible(load("digits"), model)
