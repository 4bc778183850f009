"""The order of units with equal scores: seeded, documented, and the same on every device and for every layer order.

A unit's id is ``slot(layer) * 2**32 + flat index``, where the slot is the CRC-32 of the layer name (31 bits). Its key
is splitmix64(id + splitmix64(seed)), read as a signed 64-bit integer. Among equal scores the lowest key is removed
first. splitmix64 is a bijection, so two units never share a key and the order is total.

Source: G. Steele, D. Lea, C. Flood. Fast splittable pseudorandom number generators. OOPSLA 2014.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor

_WORD = 1 << 64
_SLOTS = 1 << 31
INDEX_BITS = 32
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def slots(names: Iterable[str]) -> dict[str, int]:
    """A 31-bit number per layer name, CRC-32 of the name; the rare clash moves the later name (sorted) to the next."""
    taken: dict[int, str] = {}
    for name in sorted(names):
        slot = zlib.crc32(name.encode()) % _SLOTS
        while slot in taken:
            slot = (slot + 1) % _SLOTS
        taken[slot] = name
    return {name: slot for slot, name in taken.items()}


def keys(ids: Tensor, seed: int) -> Tensor:
    """Tie keys, int64, of unit ids (int64, any shape). A fresh tensor; ``ids`` is not changed."""
    state = ids + _signed(_mix_int(seed))
    state += _signed(_GOLDEN)
    state ^= _shifted(state, 30)
    state *= _signed(_FIRST)
    state ^= _shifted(state, 27)
    state *= _signed(_SECOND)
    state ^= _shifted(state, 31)
    return state


def unit_keys(name: str, units: int, seed: int, device: torch.device, start: int = 0) -> Tensor:
    """Tie keys of ``units`` consecutive units of one layer, from flat index ``start`` on."""
    first = (slots([name])[name] << INDEX_BITS) + start
    return keys(torch.arange(first, first + units, device=device), seed)


def _shifted(state: Tensor, by: int) -> Tensor:
    # int64 shifts carry the sign; splitmix64 wants zeros shifted in.
    return (state >> by).bitwise_and_((1 << (64 - by)) - 1)


def _mix_int(value: int) -> int:
    state = (value + _GOLDEN) % _WORD
    state = (state ^ (state >> 30)) * _FIRST % _WORD
    state = (state ^ (state >> 27)) * _SECOND % _WORD
    return state ^ (state >> 31)


def _signed(word: int) -> int:
    return word - _WORD if word >= _WORD // 2 else word
