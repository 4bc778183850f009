"""L0: the nouns of the graph: where an activation is final, and who reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Site:
    """The point at which a layer's activation is final: after its norm and non-linearity.

    layer       clean weight name
    kind        "module": the value is what the module at path ``where`` returns; "function": what the function does
    where       path below the unwrapped model, or name of the function ("torch.relu", "Tensor.relu_", ...)
    call        which call of ``where`` within one forward, from 0
    operation   the last operation before the value: "relu", "gelu", ..., a norm, or "none" (the layer's own output)
    exact_zero  can the operation return exactly zero over a range of inputs? Then ``!= 0`` means firing
    axis        of the units: 1 for a conv (0 without batch axis), -1 for a Linear, elsewhere behind a transposition
    known       whether the operation is one whose zeros we know about
    smooth      whether it is a non-linearity or a gate, whatever it does about zeros; False: the layer's own output, or
                a norm of it, which says nothing of whether a neuron fires
    parts       so many equal parts of the layer share each entry: 2 where a GLU multiplies a layer's halves
    """

    layer: str
    kind: Literal["module", "function"]
    where: str
    call: int
    operation: str
    exact_zero: bool
    axis: int
    known: bool = True
    smooth: bool = False
    parts: int = 1


@dataclass(frozen=True)
class Consumer:
    """A layer that reads the site: neuron j feeds its inputs ``[j * repeat, (j + 1) * repeat)``.

    foldable: a constant input can be moved into its bias exactly (it has one, no zero padding, one group).
    """

    layer: str
    repeat: int
    foldable: bool


@dataclass(frozen=True)
class Graph:
    """What one forward pass has shown.

    sites      by weight name, in execution order
    consumers  None: not understood (residual sum, concat, matmul, also a model output ...), so orphans must stay
    outputs    layers whose activation becomes the model's output without passing another layer
    repeats    further sites of layers that are called more than once in one forward (shared modules, tied weights)
    elsewhere  layers that were not called, but whose weight a function has read (``nn.MultiheadAttention``'s out_proj)
    """

    sites: dict[str, Site]
    consumers: dict[str, tuple[Consumer, ...] | None]
    outputs: tuple[str, ...]
    repeats: dict[str, tuple[Site, ...]] = field(default_factory=dict)
    elsewhere: tuple[str, ...] = ()

    def every_site(self) -> Iterator[Site]:
        """All sites, repeated ones included."""
        for name, site in self.sites.items():
            yield site
            yield from self.repeats.get(name, ())

    def to_dict(self) -> dict[str, Any]:
        """Strings, numbers, lists, dicts and None only."""
        return {
            "sites": [asdict(site) for site in self.every_site()],
            "consumers": {
                name: None if readers is None else [asdict(reader) for reader in readers]
                for name, readers in self.consumers.items()
            },
            "outputs": list(self.outputs),
            "elsewhere": list(self.elsewhere),
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Graph:
        """Inverse of ``to_dict``."""
        consumers = {
            name: None if readers is None else tuple(Consumer(**reader) for reader in readers)
            for name, readers in stored["consumers"].items()
        }
        sites = [Site(**site) for site in stored["sites"]]
        return cls.of(sites, consumers, tuple(stored["outputs"]), tuple(stored["elsewhere"]))

    @classmethod
    def of(
        cls,
        every: list[Site],
        consumers: dict[str, tuple[Consumer, ...] | None],
        outputs: tuple[str, ...],
        elsewhere: tuple[str, ...] = (),
    ) -> Graph:
        """A graph of sites in execution order, repeated ones included."""
        sites: dict[str, Site] = {}
        repeats: dict[str, tuple[Site, ...]] = {}
        for site in every:
            if site.layer in sites:
                repeats[site.layer] = (*repeats.get(site.layer, ()), site)
            else:
                sites[site.layer] = site
        return cls(sites, consumers, outputs, repeats, tuple(name for name in elsewhere if name not in sites))

    def joined(self, later: Graph) -> Graph:
        """Both graphs in one, for models that reach different layers in different forwards."""
        sites = [*self.every_site(), *(site for site in later.every_site() if site.layer not in self.sites)]
        consumers = dict(self.consumers)
        for name, readers in later.consumers.items():
            consumers[name] = readers if consumers.get(name, readers) == readers else None
        outputs = tuple(dict.fromkeys((*self.outputs, *later.outputs)))
        return Graph.of(sites, consumers, outputs, tuple(dict.fromkeys((*self.elsewhere, *later.elsewhere))))
