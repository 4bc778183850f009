"""L4: removal of dead structure: the same function with fewer neurons."""

from actprune.compact.compaction import Compaction, compact, compaction
from actprune.compact.gathered import GatheredLinear
from actprune.compact.report import CompactReport

__all__ = ["CompactReport", "Compaction", "GatheredLinear", "compact", "compaction"]
