"""L4: MKL's inspector-executor sparse routines through ctypes: one handle per matrix, inspected once, used often."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from ctypes import byref, c_float, c_int, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from actprune.errors import RuntimePathError
from actprune.runtime.base import Array, csr

_PLAIN, _ROW_MAJOR, _SEQUENTIAL, _GNU, _LP64 = 10, 101, 1, 3, 0
_CALLS = 100_000  # how often MKL may expect a product: what inspection may cost


class _Description(ctypes.Structure):
    """struct matrix_descr: general, whole, with its diagonal."""

    _fields_ = [("type", c_int), ("mode", c_int), ("diag", c_int)]


@lru_cache(maxsize=1)
def mkl(threads: int) -> Any:
    """The library of the ``mkl`` package. Raises RuntimePathError when it is not installed.

    Threads are MKL's own: one (no thread library is started), or as many as asked through GNU OpenMP, PyTorch's choice.
    The first call in a process decides which: MKL does not change it later.
    """
    found = sorted(
        path
        for folder in ("lib", "Library/bin")
        for pattern in ("libmkl_rt.so*", "libmkl_rt*.dylib", "mkl_rt*.dll")
        for path in (Path(sys.prefix) / folder).glob(pattern)
    )
    if not found:
        raise RuntimePathError("mkl sparse needs mkl, which is not installed here; pip install 'actprune[mkl]'")
    try:
        library = ctypes.CDLL(str(found[-1]))
        library.MKL_Set_Interface_Layer(_LP64)
        library.MKL_Set_Threading_Layer(_SEQUENTIAL if threads == 1 else _GNU)
    except (OSError, AttributeError) as error:
        raise RuntimePathError(f"mkl cannot be loaded: {error}; pip install --force-reinstall mkl") from error
    return library


class Matrix:
    """One sparse matrix ``(out, in)`` inside MKL, prepared for products with ``width`` columns.

    The arrays behind the handle are kept here, because MKL reads them at every call.
    """

    def __init__(self, library: Any, weight: Array, width: int) -> None:
        self.library, self.width, self.handle = library, width, c_void_p()
        starts, columns = csr(weight)
        self.kept = starts, columns, np.ascontiguousarray(weight[weight != 0])
        rows, inputs = weight.shape
        first, last = starts.ctypes.data, starts.ctypes.data + starts.itemsize
        arrays = (c_void_p(first), c_void_p(last), c_void_p(columns.ctypes.data), c_void_p(self.kept[2].ctypes.data))
        create = library.mkl_sparse_s_create_csr
        self._checked(create(byref(self.handle), 0, c_int(rows), c_int(inputs), *arrays), "create")
        self.description = _Description(20, 0, 0)
        hint = (self.handle, c_int(_PLAIN), self.description)
        if width == 1:
            self._checked(library.mkl_sparse_set_mv_hint(*hint, c_int(_CALLS)), "hint")
        else:
            self._checked(library.mkl_sparse_set_mm_hint(*hint, c_int(_ROW_MAJOR), c_int(width), c_int(_CALLS)), "hint")
        self._checked(library.mkl_sparse_optimize(self.handle), "optimize")

    def product(self, source: Array, result: Array) -> Callable[[], int]:
        """A call without arguments that does ``result += matrix @ source``; both ``(features, width)``, C-contiguous.

        Everything is converted for C once: ctypes would take longer than the product of a small layer.
        """
        one, plain, wide = c_float(1.0), c_int(_PLAIN), c_int(self.width)
        enter, leave = c_void_p(source.ctypes.data), c_void_p(result.ctypes.data)
        start = (plain, one, self.handle, self.description)
        arguments: tuple[Any, ...]
        if self.width == 1:
            call, arguments = self.library.mkl_sparse_s_mv, (*start, enter, one, leave)
        else:
            call = self.library.mkl_sparse_s_mm
            arguments = (*start, c_int(_ROW_MAJOR), enter, wide, wide, one, leave, wide)

        def run(alive: object = (self, source, result)) -> int:  # the memory behind the addresses
            status: int = call(*arguments)
            return status

        return run

    def _checked(self, status: int, what: str) -> None:
        if status != 0:
            raise RuntimePathError(f"mkl refuses this matrix: {what} returned status {status}")

    def __del__(self) -> None:
        if self.handle:
            self.library.mkl_sparse_destroy(self.handle)
