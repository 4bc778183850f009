"""L4: PyTorch's own CSR matrices: no extra needed, worth it above some 90 % of zeros."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from actprune.errors import RuntimePathError
from actprune.runtime.base import Array, Model, Run, csr, matrices, wrong_shape

Layer = tuple[Tensor, Tensor, bool]


class TorchCsr:
    """``W @ x`` on transposed batches; ``F.linear`` with CSR weights is 2 to 3 times slower and not always there."""

    name = "torch csr"
    extra: str | None = None
    dense = False

    def build(self, model: Model) -> Run:
        """Raises RuntimePathError for models that are no chain, and where PyTorch was built without sparse kernels."""
        layers = [(_csr(weight), torch.from_numpy(bias)[:, None], relu) for weight, bias, relu in matrices(model)]

        shape = model.example.shape[1:]

        def run(x: Array) -> Array:
            if x.shape[1:] != shape or not x.size:
                raise wrong_shape(x, shape)
            with torch.inference_mode():
                here = torch.from_numpy(x).reshape(len(x), -1).t()
                for weight, bias, relu in layers:
                    here = torch.addmm(bias, weight, here)
                    here = here.relu_() if relu else here
                result: Array = here.t().contiguous().numpy()
            return result

        try:
            run(model.example)
        except RuntimeError as error:
            raise RuntimePathError(f"this PyTorch has no CSR kernels: {str(error).splitlines()[0]}") from error
        return run


def _csr(weight: Array) -> Tensor:
    starts, columns = csr(weight)
    values = torch.from_numpy(weight[weight != 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "CSR support is in beta state"
        return torch.sparse_csr_tensor(
            torch.from_numpy(starts), torch.from_numpy(columns), values, weight.shape, check_invariants=False
        )
