"""Linear algebra and einsum of torch modules, against torch itself."""

from __future__ import annotations

import pytest
import torch

from compiler.errors import UnsupportedOp
from compiler.frontends.torch import load
from tests.compiler.frontends.torch_check import check_each

torch.manual_seed(0)
A = torch.randn(3, 4, 4, dtype=torch.float64) + 3 * torch.eye(4, dtype=torch.float64)
B = torch.randn(3, 4, 2, dtype=torch.float64)
TURNED = A[:, [3, 0, 1, 2]]  # the largest elements are off the diagonal


@pytest.mark.parametrize("matrices", [A, TURNED], ids=["diagonal", "turned"])
def test_determinants_and_systems(matrices: torch.Tensor) -> None:
    check_each(
        {
            "det": lambda a, b: torch.linalg.det(a),
            "logdet": lambda a, b: torch.logdet(a),
            "sign": lambda a, b: torch.linalg.slogdet(a)[0],
            "size": lambda a, b: torch.linalg.slogdet(a)[1],
            "inverse": lambda a, b: torch.linalg.inv(a),
            "older name": lambda a, b: a[0].inverse(),
            "solve": lambda a, b: torch.linalg.solve(a, b),
            "solve vectors": lambda a, b: torch.linalg.solve(a, b[..., 0]),
            "solve one vector": lambda a, b: torch.linalg.solve(a[0], b[0, :, 0]),
            "solve from the right": lambda a, b: torch.linalg.solve(a, b.mT, left=False),
            "cholesky": lambda a, b: torch.linalg.cholesky(a @ a.mT),
            "upper cholesky": lambda a, b: torch.linalg.cholesky(a @ a.mT, upper=True),
            "lower system": lambda a, b: torch.linalg.solve_triangular(a @ a.mT, b, upper=False),
            "upper system": lambda a, b: torch.linalg.solve_triangular(a @ a.mT, b.mT, upper=True, left=False),
            "unit system": lambda a, b: torch.linalg.solve_triangular(a / 8, b, upper=True, unitriangular=True),
            "power": lambda a, b: torch.linalg.matrix_power(a / 4, 5),
            "negative power": lambda a, b: torch.linalg.matrix_power(a, -2),
            "power 0": lambda a, b: torch.linalg.matrix_power(a, 0),
        },
        (matrices, B),
    )


def test_einsum() -> None:
    check_each(
        {
            "chain": lambda a, b: torch.einsum("bij,bjk,bkl->bil", a, a, b),
            "ellipsis": lambda a, b: torch.einsum("...ij,...jk", a, b),
            "diagonal": lambda a, b: torch.einsum("bii->bi", a),
            "trace": lambda a, b: torch.einsum("bii", a),
            "outer": lambda a, b: torch.einsum("bi,bj->bij", a[:, 0], b[:, 0]),
        },
        (A, B),
    )


def test_large_matrices_are_refused() -> None:
    class Inverse(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.inv(x)

    with pytest.raises(UnsupportedOp, match="the inverse of matrices of 65 rows"):
        load(Inverse(), (torch.eye(65),))
