"""Two spaces as the methods see them: checked, drawn if large, about their means, whitened."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core import checks, draws
from relreps._core.linalg import as_float64, at_least_float32, unit_rows
from relreps._core.rounding import is_constant, rounding_of, unit_of
from relreps._core.warnings import PerformanceWarning, warn
from relreps.correspondence.pairs import Indices


def check_spaces(x: Tensor, y: Tensor, num_anchors: int, max_samples: int) -> None:
    """Refuse rows that cannot be used, and more anchors than there are rows."""
    for name, rows in (("x", x), ("y", y)):
        checks.check_rows(name, rows, minimum=2)
        if not rows.shape[1]:
            raise ValueError(f"`{name}` must have at least one feature, got {tuple(rows.shape)}.")
        checks.check_readable(name, rows)
        checks.check_finite(name, rows)
    num_anchors = checks.check_size("num_anchors", num_anchors)
    max_samples = checks.check_size("max_samples", max_samples, minimum=2)
    least = min(x.shape[0], y.shape[0])
    if num_anchors > least:
        raise ValueError(
            f"`num_anchors` must be at most the rows of the smaller space, got {num_anchors} "
            f"anchors, {x.shape[0]} rows of `x` and {y.shape[0]} of `y`. Ask for fewer anchors."
        )


def no_seeds(device: torch.device) -> Indices:
    """Nothing known."""
    none = torch.empty(0, dtype=torch.long, device=device)
    return none, none


def drawn(
    x: Tensor,
    y: Tensor,
    seeds: Indices,
    max_samples: int,
    num_anchors: int,
    generator: torch.Generator | None,
) -> Indices:
    """Indices of the rows that represent each space, seeds first, the others in order."""
    wanted = max(max_samples, num_anchors)
    if max(len(x), len(y)) > wanted:
        _warn_of_draw((len(x), len(y)), len(seeds[0]), wanted, num_anchors)
    return (
        _representatives(len(x), seeds[0], wanted, generator),
        _representatives(len(y), seeds[1], wanted, generator),
    )


def _warn_of_draw(sizes: tuple[int, int], seeds: int, wanted: int, num_anchors: int) -> None:
    """Say how many pairs two draws are expected to share."""
    # Of the F = min(N, M) - S pairs beyond the seeds, either draw holds the row of one with the
    # chance that it holds any free row, (wanted - S) / (N - S), and both do with their product.
    shared = float(min(sizes) - seeds)
    for n in sizes:
        shared *= (min(n, wanted) - seeds) / max(n - seeds, 1)
    pairs = seeds + round(shared)
    large = " and ".join(
        f"`{name}` has {n} rows" for name, n in zip("xy", sizes, strict=True) if n > wanted
    )
    warn(
        f"{large}, of which {wanted} drawn at random represent it; only these can be paired. "
        f"About {pairs} pairs are to be expected among them"
        + (f", fewer than the {num_anchors} asked for" if pairs < num_anchors else "")
        + ". Raise `max_samples`, for time and memory in its square, or give fewer rows.",
        PerformanceWarning,
    )


def _representatives(
    n: int, seeds: Tensor, wanted: int, generator: torch.Generator | None
) -> Tensor:
    """Indices of the seeds, and of as many others, at random, as are wanted in all."""
    others = torch.ones(n, dtype=torch.bool, device=seeds.device)
    others[seeds] = False
    rest = others.nonzero().flatten()
    if n > wanted:
        order = draws.shuffled(len(rest), generator).to(rest.device)
        rest = rest[order[: wanted - len(seeds)].sort().values]
    return torch.cat((seeds, rest))


def copies(rows: Tensor) -> Tensor:
    """A number for each row ``(N,)``, the same for rows that are equal."""
    number: Tensor = rows.unique(dim=0, return_inverse=True)[1]
    return number


def about_mean(name: str, x: Tensor) -> Tensor:
    """Rows about their mean in float64, near 1 in size; refused if they are all equal."""
    rows = as_float64(x)
    rows = rows / unit_of(rows.abs().max())
    rest = rows - rows.mean(0)
    if is_constant(rest.square().sum(), rows.square().sum(), rounding_of(x.dtype)):
        raise ValueError(
            f"`{name}` must vary, got rows that are all equal. Give at least two different rows."
        )
    return rest / unit_of(rest.abs().max())


def centered_directions(name: str, x: Tensor) -> Tensor:
    """Rows about their mean, of length one ``(N, D)``."""
    return unit_rows(about_mean(name, x)).to(at_least_float32(x[:0]).dtype)


def softly_whitened(name: str, x: Tensor) -> Tensor:
    r"""Rows centred, softly whitened and scaled to length one ``(N, D)``; unlabelled statistics.

    .. math:: (x - \mu)(\Sigma + \tau I)^{-1/2}, \qquad
              \tau = 2 \operatorname{tr}\Sigma^2 / \operatorname{tr}\Sigma

    With :math:`\Sigma = V \operatorname{diag}(\lambda) V^\top`, the average of :math:`\lambda_i`
    weighted by the shares :math:`\lambda_i / \sum_j \lambda_j` is :math:`\sum_i \lambda_i^2 /
    \sum_j \lambda_j`, and :math:`\tau` is twice of it: it needs no choice, and does not change with
    the unit of the space or with dimensions that hold nothing.
    """
    rows = about_mean(name, x)
    values, vectors = torch.linalg.eigh(rows.mT @ rows / len(rows))
    values = values.clamp(min=0)
    ridge = 2 * values.square().sum() / values.sum()
    softened: Tensor = (rows @ vectors) * (values + ridge).rsqrt()
    return unit_rows(softened @ vectors.mT).to(x.device, at_least_float32(x[:0]).dtype)
