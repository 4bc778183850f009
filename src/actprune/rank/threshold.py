"""The exact threshold, under the names that the rest of the house uses; the files behind it become one next."""

from actprune.rank.exact import cut as lowest
from actprune.rank.field import Piece as Scored
from actprune.rank.field import competing_cost, refuse_nan
from actprune.rank.ties import keys, slots, unit_keys

__all__ = ["Scored", "competing_cost", "keys", "lowest", "refuse_nan", "slots", "unit_keys"]
