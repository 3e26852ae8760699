"""Does a code change when the space is transformed? Asked with random transformations."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from relreps._core import checks
from relreps._core.draws import device_of, shuffled, uniform
from relreps._core.draws import normal as normal_draw
from relreps._core.invariance import TRANSFORMATIONS

#: A function ``(x, anchors) -> code``, a projection (``set_anchors``), or a normaliser (``fit``).
Code = Callable[[Tensor, Tensor], Tensor] | nn.Module

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def random_transformation(
    name: str, features: int, *, generator: torch.Generator | None = None
) -> Callable[[Tensor], Tensor]:
    """A random member of a class of transformations, to be applied to samples and anchors alike.

    Args:
        name: ``"permutation"``, ``"rotation"``, ``"translation"``, ``"isotropic_scale"``,
            ``"feature_scale"``, ``"sample_scale"``, ``"linear"`` or ``"affine"``.
        features: Width D of the space.
        generator: Source of randomness; torch's default one if not given.

    Example:
        >>> double = random_transformation("isotropic_scale", 3)
        >>> double(torch.ones(2, 3)).unique().numel()
        1
    """
    checks.check_choice("name", name, TRANSFORMATIONS)
    features = checks.check_size("features", features)

    device = device_of(generator)

    def normal(*shape: int) -> Tensor:
        return normal_draw(shape, generator)

    def scales(*shape: int) -> Tensor:
        return torch.exp(normal(*shape))

    matrix = torch.eye(features, dtype=torch.float64, device=device)
    shift = matrix.new_zeros(features)
    if name == "permutation":
        matrix = matrix[shuffled(features, generator)]
    elif name == "rotation":
        matrix = _orthogonal(normal(features, features))
    elif name == "isotropic_scale":
        matrix = matrix * scales()
    elif name == "feature_scale":
        matrix = matrix * scales(features)
    elif name in ("linear", "affine"):
        # Singular values between 1/2 and 2: invertible, and as far from it as rounding allows.
        stretch = 2 ** (2 * uniform(features, generator) - 1)
        matrix = _orthogonal(normal(features, features)) * stretch
        matrix = matrix @ _orthogonal(normal(features, features))
    if name in ("translation", "affine"):
        shift = 3 * normal(features)

    def apply(z: Tensor) -> Tensor:
        if name == "sample_scale":
            return z * scales(*z.shape[:-1], 1).to(z)
        return z @ matrix.to(z) + shift.to(z)

    return apply


def deviation(
    code: Code,
    transformation: str,
    x: Tensor,
    anchors: Tensor,
    *,
    draws: int = 3,
    generator: torch.Generator | None = None,
) -> float:
    """Largest change of the code under random transformations, relative to its largest entry.

    Args:
        code: ``(x, anchors) -> code``; or a module with ``set_anchors`` or ``fit``, a copy of which
            is given the transformed anchors.
        transformation: A name that `random_transformation` knows.
        x: Samples ``(N, D)``.
        anchors: Anchors ``(A, D)``.
        draws: Number of transformations tried.
        generator: Source of randomness; torch's default one if not given.
    """
    before = _evaluate(code, x, anchors)
    changes = []
    for _ in range(draws):
        change = random_transformation(transformation, x.shape[-1], generator=generator)
        after = _evaluate(code, change(x), change(anchors))
        changes.append((after - before).abs().max() / before.abs().max())
    return float(torch.stack(changes).max())  # NaN if any is


def assert_invariant(
    code: Code,
    transformation: str,
    x: Tensor,
    anchors: Tensor,
    *,
    tolerance: float | None = None,
    draws: int = 3,
    generator: torch.Generator | None = None,
) -> None:
    """Fail if the code changes under any of some random transformations.

    Args:
        code: See `deviation`.
        transformation: A name that `random_transformation` knows.
        x: Samples ``(N, D)``.
        anchors: Anchors ``(A, D)``.
        tolerance: Largest change allowed, relative; 1e-9 in float64 and 1e-4 in float32 by default.
        draws: Number of transformations tried.
        generator: Source of randomness; torch's default one if not given.

    Raises:
        AssertionError: The code changes; the message says by how much.

    Example:
        >>> x, anchors = torch.randn(8, 5), torch.randn(4, 5)
        >>> assert_invariant(relreps.relative_projection, "rotation", x, anchors)
    """
    allowed = _TOLERANCE.get(x.dtype, 1e-2) if tolerance is None else tolerance
    worst = deviation(code, transformation, x, anchors, draws=draws, generator=generator)
    if not worst <= allowed:
        raise AssertionError(
            f"the code is not invariant to {transformation}: it changes by {worst:.1e} of its "
            f"largest entry, more than {allowed:.1e}"
        )


def assert_not_invariant(
    code: Code,
    transformation: str,
    x: Tensor,
    anchors: Tensor,
    *,
    threshold: float = 1e-6,
    draws: int = 3,
    generator: torch.Generator | None = None,
) -> None:
    """Fail if the code stays the same under all of some random transformations.

    Args:
        code: See `deviation`.
        transformation: A name that `random_transformation` knows.
        x: Samples ``(N, D)``.
        anchors: Anchors ``(A, D)``.
        threshold: Largest change, relative, that still counts as none.
        draws: Number of transformations tried.
        generator: Source of randomness; torch's default one if not given.

    Raises:
        AssertionError: Nothing changes.
    """
    worst = deviation(code, transformation, x, anchors, draws=draws, generator=generator)
    if not worst > threshold:
        raise AssertionError(
            f"the code is invariant to {transformation}: it changes by at most {worst:.1e} of its "
            "largest entry; declare it"
        )


def _orthogonal(m: Tensor) -> Tensor:
    """Haar-distributed orthogonal matrix from a Gaussian one."""
    q, r = torch.linalg.qr(m)
    haar: Tensor = q * r.diagonal().sign()
    return haar


@torch.no_grad()
def _evaluate(code: Any, x: Tensor, anchors: Tensor) -> Tensor:
    if hasattr(code, "set_anchors"):
        out: Tensor = copy.deepcopy(code).to(x).set_anchors(anchors)(x)
    elif hasattr(code, "fit"):
        out = copy.deepcopy(code).to(x).fit(anchors)(x)
    else:
        out = code(x, anchors)
    return out.to_dense() if out.layout == torch.sparse_csr else out
