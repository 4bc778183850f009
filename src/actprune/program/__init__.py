"""L2: a network as a list of standard operations, without its class."""

from actprune.program.chain import Dense, chain
from actprune.program.export import example_args, export, outline
from actprune.program.module import Program
from actprune.program.nodes import Ref, Step
from actprune.program.tracing import on_its_example, refuse_failing
from actprune.program.tree import first_names, tensor_at

__all__ = [
    "Dense",
    "Program",
    "Ref",
    "Step",
    "chain",
    "example_args",
    "export",
    "first_names",
    "on_its_example",
    "outline",
    "refuse_failing",
    "tensor_at",
]
