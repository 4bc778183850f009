"""L4: what the kernels are made with: compiler flags, pointers from addresses, and a row's sums in registers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple


def jit(function: Callable[..., Any], *signature: Any, nogil: bool = False) -> Any:
    """Compile with the kernels' flags, at once when a signature is given, else at the first call."""
    from numba import njit

    # Of the fast-math flags only "contract" (FMA): the others would let NaN and infinities be optimised away.
    return njit(*signature, fastmath={"contract"}, error_model="numpy", nogil=nogil)(function)


class Pointers(NamedTuple):
    """Compiled functions from an address (int64) to a pointer that can be indexed."""

    int64: Callable[[int], Any]
    int32: Callable[[int], Any]
    float32: Callable[[int], Any]


@cache
def pointers() -> Pointers:
    """Made once a process; nothing checks what the address points at, so only a Plan's table may hold them."""
    from numba import types
    from numba.extending import intrinsic

    def make(kind: Any) -> Any:
        pointer = _pointer(kind)

        def cast(typing: Any, address: Any) -> Any:
            return pointer(address), lambda context, build, _signature, arguments: build.inttoptr(
                arguments[0], context.get_value_type(pointer)
            )

        return intrinsic(cast)

    return Pointers(make(types.int64), make(types.int32), make(types.float32))


def _pointer(kind: Any) -> Any:
    from numba import types

    make: Any = types.CPointer
    return make(kind)


@cache
def row_sums(lanes: int) -> Callable[..., None]:
    """A compiled function (matrix, index, value, count, bias, relu, into) that makes one output of ``lanes`` examples.

    into[e] = act(bias + sum over k < count of value[k] * matrix[index[k] * lanes + e]), e < lanes, with the sums in
    vector registers from the first to the last: numba alone would load and store them for every weight. LLVM cuts the
    vector to the width that the processor has. NaN stays NaN through the ReLU.
    """
    from numba import types
    from numba.extending import intrinsic

    floats, ints = _pointer(types.float32), _pointer(types.int32)

    def sums(typing: Any, matrix: Any, index: Any, value: Any, count: Any, bias: Any, relu: Any, into: Any) -> Any:  # noqa: PLR0917
        taken = floats, ints, floats, types.int64, types.float32, types.int64, floats

        def generate(context: Any, build: Any, _signature: Any, arguments: Any) -> Any:
            matrix, index, value, count, bias, relu, into = arguments
            total = _products(build, lanes, _splat(build, bias, lanes), (matrix, index, value, count))
            _store(build, total, relu, into)
            return context.get_dummy_value()

        return types.void(*taken), generate

    return intrinsic(sums)


def _products(build: Any, lanes: int, bias: Any, row: tuple[Any, Any, Any, Any]) -> Any:
    """The bias plus the products of a row's values and their inputs, summed: row is (matrix, index, value, count)."""
    ir = import_module("llvmlite.ir")

    matrix, index, value, count = row
    size, vector, before = ir.IntType(64), bias.type, build.block
    test, body, after = (build.append_basic_block(name) for name in ("test", "body", "after"))
    build.branch(test)
    build.position_at_end(test)
    step, total = build.phi(size), build.phi(vector)
    step.add_incoming(size(0), before)
    total.add_incoming(bias, before)
    build.cbranch(build.icmp_signed("<", step, count), body, after)
    build.position_at_end(body)
    place = build.mul(build.sext(build.load(build.gep(index, [step])), size), size(lanes))
    inputs = build.load(build.bitcast(build.gep(matrix, [place]), vector.as_pointer()), align=4)
    weight = _splat(build, build.load(build.gep(value, [step])), lanes)
    # "contract" lets the processor fuse the two into one FMA, and nothing else
    product = build.fmul(weight, inputs, flags=("contract",))
    total.add_incoming(build.fadd(total, product, flags=("contract",)), body)
    step.add_incoming(build.add(step, size(1)), body)
    build.branch(test)
    build.position_at_end(after)
    return total


def _store(build: Any, total: Any, relu: Any, into: Any) -> None:
    """Writes the sums, through the ReLU unless ``relu`` is 0."""
    ir = import_module("llvmlite.ir")

    vector = total.type
    zero = ir.Constant(vector, None)
    positive = build.select(build.fcmp_ordered("<", total, zero), zero, total)
    result = build.select(build.icmp_signed("!=", relu, ir.IntType(64)(0)), positive, total)
    build.store(result, build.bitcast(into, vector.as_pointer()), align=4)


def _splat(build: Any, scalar: Any, lanes: int) -> Any:
    """The scalar in every lane."""
    ir = import_module("llvmlite.ir")

    nothing, lane = ir.Constant(ir.VectorType(ir.FloatType(), lanes), ir.Undefined), ir.IntType(32)
    zeros = ir.Constant(ir.VectorType(lane, lanes), None)
    return build.shuffle_vector(build.insert_element(nothing, scalar, lane(0)), nothing, zeros)
