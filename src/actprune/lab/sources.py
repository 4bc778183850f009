"""L5: from what a user typed (a name, a path, an import string) to raw arrays."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import TensorDataset

from actprune.errors import DataError, unknown_name
from actprune.lab.dataset import Array, Dataset, Pair, Raw
from actprune.lab.idx import LIMIT
from actprune.lab.imports import import_object, is_import_string
from actprune.lab.known import FILES, KNOWN, idx_file, read_folder, read_known
from actprune.lab.parquet import holds_parquet, read_parquet

_REQUIRED, _OPTIONAL = ("x_train", "y_train", "x_test", "y_test"), ("x_val", "y_val")


def names() -> tuple[str, ...]:
    """The data sets that are known by name."""
    return ("digits", *KNOWN)


def read(source: str, seed: int, download: bool = False) -> Raw:
    """Raw arrays of a name, a path or an import string. Raises DataError when it is none of these, or unreadable."""
    if source == "digits":
        return _digits(seed)
    if source in KNOWN:
        return read_known(source, download)
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_directory(path)
    if path.is_file():
        return read_npz(path)
    if is_import_string(source):
        return _from_factory(source)
    raise DataError(
        f"{unknown_name('data set', source, names())}. It is no folder or .npz file either, and no import string "
        f"(package.module:factory); give one of these"
    )


def read_npz(path: Path, limit: int = LIMIT) -> Raw:
    """Arrays x_train, y_train, x_test, y_test and, optionally, x_val and y_val of an .npz file; no pickles.

    Each array's header is checked against the bytes stored before memory is taken. Raises DataError on any damage.
    """
    try:
        with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as stored:
            present = set(stored.files)
            missing = [name for name in _REQUIRED if name not in present]
            if missing or (present & set(_OPTIONAL) and not set(_OPTIONAL) <= present):
                raise DataError(
                    f"{path} holds {', '.join(sorted(present)) or 'nothing'}; expected x_train, y_train, x_test, "
                    f"y_test and, optionally, both x_val and y_val"
                )
            wanted = _REQUIRED + (_OPTIONAL if "x_val" in present else ())
            for name in wanted:
                _check_member(archive, f"{name}.npy", path, limit)
            found = {name: stored[name] for name in wanted}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot read {path} as .npz without pickles: {error}; write it with numpy.savez") from error
    validation = (found["x_val"], found["y_val"]) if "x_val" in found else None
    return Raw((found["x_train"], found["y_train"]), (found["x_test"], found["y_test"]), validation)


def _check_member(archive: zipfile.ZipFile, name: str, path: Path, limit: int) -> None:
    """Compare the shape one array claims with the bytes stored for it."""
    info = archive.getinfo(name)
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise DataError(f"{path}: {name} has npy format {version}, expected 1.0; write it with numpy.savez")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        needed = stream.tell() + dtype.itemsize * math.prod(shape)
    if dtype.hasobject:
        raise DataError(f"{path}: {name} holds Python objects; expected numbers; convert it and write it again")
    # deflate, the only compression numpy writes, cannot expand more than 1032 times
    if needed != info.file_size or needed > limit or needed > 1032 * info.compress_size + 64:
        raise DataError(
            f"{path}: {name} claims shape {shape} of {dtype}, {needed} bytes; found {info.file_size} bytes "
            f"({info.compress_size} stored), at most {limit} are read"
        )


def _read_directory(folder: Path) -> Raw:
    """A folder with the four idx files, with one .npz file, or with pictures in parquet."""
    if holds_parquet(folder):
        return read_parquet(folder)
    archives = sorted(folder.glob("*.npz"))
    if any(idx_file(folder, name) for name in FILES):
        return read_folder(folder)
    if len(archives) != 1:
        found = ", ".join(path.name for path in archives) or "neither"
        raise DataError(
            f"{folder} must hold {', '.join(FILES)} (each plain or with .gz), exactly one .npz file, or train*.parquet "
            f"and test*.parquet with pictures; found {found}"
        )
    return read_npz(archives[0])


def _digits(seed: int) -> Raw:
    """scikit-learn's 1797 digits of 8x8 pixels, 0..16 scaled to 0..1; a stratified fifth, 360, is the test set."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise DataError("data set 'digits' needs scikit-learn; pip install 'actprune[lab]'") from error
    stored = load_digits()
    x, y = (stored.images / 16).astype(np.float32), stored.target.astype(np.int64)
    train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=0.2, stratify=y, random_state=seed)
    return Raw((train_x, train_y), (test_x, test_y), classes=10)


def _from_factory(text: str) -> Raw:
    """Call ``package.module:factory`` and take what it returns apart."""
    factory = import_object(text, DataError)
    if not callable(factory):
        raise DataError(f"{text!r} is a {type(factory).__name__}; expected a function that returns the data")
    made = _call(factory, text)
    if isinstance(made, Dataset):
        train, test, validation = (_pair(part, text) for part in (made.train, made.test, made.validation))
        return Raw(train, test, validation, made.classes)
    if not isinstance(made, (tuple, list)) or len(made) not in (2, 3):
        size = f" of {len(made)}" if isinstance(made, Sized) else ""
        raise DataError(
            f"{text!r} returned a {type(made).__name__}{size}; expected a Dataset, or (train, test) or "
            f"(train, test, validation), each a pair (x, y) or a torch Dataset"
        )
    train, test, *rest = (_pair(part, text) for part in made)
    return Raw(train, test, rest[0] if rest else None)


def _call(factory: Callable[..., object], text: str) -> object:
    """The factory's result; what it raises is reported with its name."""
    try:
        return factory()
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"data factory {text!r} failed: {type(error).__name__}: {error}") from error


def _pair(part: Any, text: str) -> Pair:
    """(x, y) arrays of a pair or of a torch Dataset of (x, y) examples."""
    if isinstance(part, TensorDataset):
        part = part.tensors
    if isinstance(part, TorchDataset):
        if not isinstance(part, Sized) or not len(part):
            raise DataError(f"{text!r} returned a torch Dataset without length; expected one with at least one example")
        examples = [part[i] for i in range(len(part))]
        part = (
            _stacked([example[0] for example in examples], text),
            _stacked([example[1] for example in examples], text),
        )
    if not isinstance(part, (tuple, list)) or len(part) != 2:
        raise DataError(f"{text!r} returned a {type(part).__name__} where a pair (x, y) or a torch Dataset is expected")
    return _array(part[0], text), _array(part[1], text)


def _stacked(values: list[Any], text: str) -> Array:
    """One array of all examples, which must have equal shapes."""
    arrays = [_array(value, text) for value in values]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise DataError(f"{text!r}: examples have different shapes {sorted(shapes)[:3]}; make them equal")
    return np.stack(arrays)


def _array(value: Any, text: str) -> Array:
    """A tensor, array, list or PIL image as an array; bfloat16, which numpy lacks, becomes float32."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return np.asarray((value.float() if value.is_floating_point() and value.itemsize < 4 else value).numpy())
    try:
        return np.asarray(value)
    except ValueError as error:
        raise DataError(f"{text!r} returned something that is no array: {error}; expected equal shapes") from error
