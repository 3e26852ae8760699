"""Symmetries of activations: the transformations a layer can undergo without being noticed.

For an activation s, a matrix A is an intertwiner if some matrix phi(A) satisfies

    s(A z) = phi(A) s(z)    for all z,

so that A can be pushed through the layer and undone by the next weights. Hidden features of two
networks trained apart are therefore comparable up to phi(A) at best (arXiv:2205.14258).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from relreps._core import checks, draws
from relreps.normalization import (
    Center,
    IsotropicScale,
    Normalizer,
    StandardScale,
    UnitNorm,
    Whiten,
)
from relreps.projection import relative_projection

#: The activations, by name.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda z: z,
    "relu": F.relu,
    "leaky_relu": lambda z: F.leaky_relu(z, 0.1),
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gaussian": lambda z: torch.exp(-z.square()),
    "cube": lambda z: z**3,
}


def intertwiner(
    activation: str, n: int, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    r"""A random :math:`(A, \phi(A))` with :math:`s(A z) = \phi(A)\, s(z)`, in float64.

    With P a permutation and D diagonal: any invertible A for ``"identity"``; P D with D > 0 for
    ``"relu"`` and ``"leaky_relu"``; P for ``"gelu"``, ``"silu"`` and ``"sigmoid"``; P D with signs
    D for ``"tanh"``, and for ``"gaussian"``, whose :math:`\phi(A)` is :math:`|A|`; P D with
    D != 0 for ``"cube"``, whose :math:`\phi(A)` is the entry-wise cube. Rows transform as
    ``z @ A.T``.

    Args:
        activation: A name in `ACTIVATIONS`.
        n: Number of units.
        generator: Source of randomness; torch's default one if not given.

    Example:
        >>> a, phi = intertwiner("relu", 3)
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> torch.allclose((z @ a.T).relu(), z.relu() @ phi.T)
        True

    References:
        Godfrey et al., arXiv:2205.14258, table 1.
    """
    checks.check_choice("activation", activation, ACTIVATIONS)
    n = checks.check_size("n", n)

    def normal(*shape: int) -> Tensor:
        return draws.normal(shape, generator)

    if activation == "identity":
        a = normal(n, n)
        return a, a
    order = draws.shuffled(n, generator)
    permutation = torch.eye(n, dtype=torch.float64, device=order.device)[order]
    signs, sizes = normal(n).sign(), torch.exp(normal(n) / 2)
    if activation in ("relu", "leaky_relu"):
        a = permutation * sizes
        return a, a
    if activation in ("gelu", "silu", "sigmoid"):
        return permutation, permutation
    if activation == "cube":
        a = permutation * signs * sizes
        return a, a**3
    a = permutation * signs
    return a, a.abs() if activation == "gaussian" else a


#: Normalisers of the symmetry table, each for a number of features.
NORMALIZERS: dict[str, Callable[[int], Normalizer | None]] = {
    "none": lambda features: None,
    "UnitNorm": lambda features: UnitNorm(),
    "Center": Center,
    "IsotropicScale": IsotropicScale,
    "StandardScale": StandardScale,
    "Whiten": Whiten,
}


def symmetry_table(features: int = 6, rows: int = 40) -> dict[str, dict[str, float]]:
    """How much a cosine code changes when hidden units undergo a symmetry of their activation.

    Returns:
        For each activation and each normaliser in front of the cosine, the largest change of the
        code over three random symmetries, in float64.
    """
    generator = torch.Generator().manual_seed(0)
    table: dict[str, dict[str, float]] = {}
    for name, activation in ACTIVATIONS.items():
        z = draws.normal((rows, features), generator)
        hidden = activation(z + 0.3)
        table[name] = dict.fromkeys(NORMALIZERS, 0.0)
        for _ in range(3):
            _, phi = intertwiner(name, features, generator=generator)
            for pre, make in NORMALIZERS.items():
                change = (
                    _code(hidden @ phi.T, make(features)) - _code(hidden, make(features))
                ).abs()
                table[name][pre] = max(table[name][pre], float(change.max()))
    return table


def _code(rows: Tensor, pre: Normalizer | None) -> Tensor:
    anchors = rows[: rows.shape[0] // 2]
    if pre is not None:
        pre = pre.double().fit(anchors)
        rows, anchors = pre(rows), pre(anchors)
    return relative_projection(rows, anchors)
