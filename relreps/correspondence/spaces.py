"""What a discovery of anchors is given: checked, drawn if it is much, and prepared."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.warnings import PerformanceWarning
from relreps.correspondence import transport


def both_spaces(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both spaces prepared, in one type, on the device of ``x``."""
    rows_x, rows_y = transport.softly_whitened("x", x), transport.softly_whitened("y", y)
    dtype = torch.promote_types(rows_x.dtype, rows_y.dtype)
    return rows_x.to(dtype), rows_y.to(x.device, dtype)


def drawn(
    x: Tensor,
    y: Tensor,
    seeds: tuple[Tensor, Tensor],
    max_samples: int,
    num_anchors: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Indices of the rows that represent each space, seeds first, the others in order."""
    wanted = max(max_samples, num_anchors)
    sizes = len(x), len(y)
    if max(sizes) > wanted:
        s, free = len(seeds[0]), float(min(sizes) - len(seeds[0]))
        for n in sizes:
            free *= (min(n, wanted) - s) / max(n - s, 1)
        shared = s + round(free)
        large = " and ".join(
            f"`{name}` has {n} rows" for name, n in zip("xy", sizes, strict=True) if n > wanted
        )
        warnings.warn(
            f"{large}, of which {wanted} drawn at random represent it; only these can be paired. "
            f"About {shared} pairs are to be expected among them"
            + (f", fewer than the {num_anchors} asked for" if shared < num_anchors else "")
            + ". Raise `max_samples`, for time and memory in its square, or give fewer rows.",
            PerformanceWarning,
            stacklevel=4,
        )
    return (
        _representatives(sizes[0], seeds[0], wanted, generator),
        _representatives(sizes[1], seeds[1], wanted, generator),
    )


def _representatives(
    n: int, seeds: Tensor, wanted: int, generator: torch.Generator | None
) -> Tensor:
    """Indices of the seeds, and of as many others, at random, as are wanted in all."""
    others = torch.ones(n, dtype=torch.bool, device=seeds.device)
    others[seeds] = False
    rest = others.nonzero().flatten()
    if n > wanted:
        device = "cpu" if generator is None else generator.device
        order = torch.randperm(len(rest), generator=generator, device=device).to(rest.device)
        rest = rest[order[: wanted - len(seeds)].sort().values]
    return torch.cat((seeds, rest))


def check_spaces(x: Tensor, y: Tensor, num_anchors: int, max_samples: int) -> None:
    """Refuse rows that cannot be used, and more anchors than there are rows."""
    for name, rows in (("x", x), ("y", y)):
        checks.check_rows(name, rows, minimum=2)
        checks.check_finite(name, rows)
    checks.check_size("num_anchors", num_anchors)
    checks.check_size("max_samples", max_samples, minimum=2)
    least = min(x.shape[0], y.shape[0])
    if num_anchors > least:
        raise ValueError(
            f"`num_anchors` must be at most the rows of the smaller space, got {num_anchors} "
            f"anchors, {x.shape[0]} rows of `x` and {y.shape[0]} of `y`. Ask for fewer anchors."
        )


def check_seeds(
    seeds_x: Tensor,
    seeds_y: Tensor,
    n: int,
    m: int,
    names: tuple[str, str] = ("seeds_x", "seeds_y"),
) -> None:
    """Refuse seeds that are not distinct, paired rows of two spaces of n and m."""
    for name, seeds, rows in zip(names, (seeds_x, seeds_y), (n, m), strict=True):
        if not isinstance(seeds, Tensor) or seeds.dtype not in (torch.int64, torch.int32):
            came = seeds.dtype if isinstance(seeds, Tensor) else type(seeds).__name__
            raise TypeError(f"`{name}` must be a tensor of row indices (int64), got {came}.")
        if seeds.dim() != 1 or len(seeds) == 0:
            raise ValueError(
                f"`{name}` must have shape (seeds,) with at least one, got {tuple(seeds.shape)}."
            )
        if int(seeds.min()) < 0 or int(seeds.max()) >= rows:
            raise ValueError(
                f"`{name}` must be row indices from 0 to {rows - 1}, got values from "
                f"{int(seeds.min())} to {int(seeds.max())}."
            )
        if len(seeds.unique()) < len(seeds):
            raise ValueError(
                f"`{name}` must name each row once, got {len(seeds.unique())} different rows in "
                f"{len(seeds)} seeds. Drop the repeated pairs."
            )
    checks.check_paired(seeds_x, seeds_y, names)
