"""Many spaces at once: one map for each, to and from a hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import as_float64, at_least_float32, full_precision, polar_factor
from relreps._core.rounding import is_constant, rounding_of
from relreps._core.state import FittedModule
from relreps._core.warnings import warn


class GeneralizedProcrustes(FittedModule):
    r"""Orthogonal maps of M spaces into a common hub, and so between any two of them.

    .. math:: \min_{Q_1, \dots, Q_M, t, Z}\ \sum_m \sum_n w_{mn}
              \bigl(\lVert \tilde x_{mn} \rVert^2 - 2 \langle \tilde x_{mn} Q_m, z_n - t_m \rangle
              + \lVert z_n - t_m \rVert^2\bigr)

    where :math:`\tilde x` are centred rows, :math:`Q_m` has orthonormal columns (or rows, where a
    space is narrower than the hub), and :math:`w_{mn} = 0` where space m lacks sample n: with one
    width that is :math:`\lVert \tilde x_{mn} Q_m + t_m - z_n \rVert^2`. M maps serve all M(M - 1)
    directions, and they are consistent: by way of a third space at least as wide as the hub one
    gets the same as directly. The start is MAXVAR: the leading left singular vectors of all spaces
    side by side, each softly whitened; where samples are missing, one space after another is
    brought to those before it. From there the hub and the maps are found in turn; the objective
    never rises. The hub has its principal axes as coordinates, the largest first, the
    entry of largest size in each positive. O(max_iterations M (N D H + D H min(D, H))), in float64.

    Args:
        features: Width of each space.
        hub_features: Width H of the hub, at most the sum of them. Directions that a space has
            beyond it are lost in a translation.
        rescale: Whether spaces weigh alike: each is divided by the root mean square distance of
            its rows from their mean, which is given back on the way out.
        tolerance: Stop when a round lowers the objective by less than this share of the data's
            energy.
        max_iterations: Stop after as many rounds at the latest.

    Attributes:
        objective: What is left of the energy of the data, from 0 to 1.
        iterations: Rounds that were needed.

    Raises:
        RuntimeError: Used before `fit`.
        ValueError: Spaces of unequal length, non-finite rows, wrong sizes, samples that do not
            link the spaces.

    Warns:
        NumericalWarning: The alternation was not done after ``max_iterations``.

    Example:
        >>> x = torch.randn(50, 4)
        >>> hub = GeneralizedProcrustes([4, 4, 5], 4)
        >>> hub = hub.fit([x, x.flip(1) + 3, torch.nn.functional.pad(2 * x, (1, 0))])
        >>> torch.allclose(hub.translate(x, 0, 1), x.flip(1) + 3, atol=1e-4)
        True

    References:
        Gower 1975; for latent spaces arXiv:2602.06205. Missing rows, the padded objective for
        unequal widths, and the whitened start are this library's.
    """

    objective: Tensor
    iterations: Tensor

    def __init__(
        self,
        features: Sequence[int],
        hub_features: int,
        *,
        rescale: bool = True,
        tolerance: float = 1e-9,
        max_iterations: int = 200,
    ) -> None:
        super().__init__()
        features = [checks.check_size("features", width) for width in features]
        if len(features) < 2:
            raise ValueError(f"`features` must name at least two spaces, got {features}.")
        hub_features = checks.check_size("hub_features", hub_features)
        if hub_features > sum(features):
            raise ValueError(
                f"`hub_features` must be at most the widths together, {sum(features)}, got "
                f"{hub_features}: more directions cannot be told apart."
            )
        checks.check_number("tolerance", tolerance, 0, 1)
        max_iterations = checks.check_size("max_iterations", max_iterations)
        self.features, self.hub_features = features, hub_features
        self.rescale, self.tolerance, self.max_iterations = rescale, tolerance, max_iterations
        for m, width in enumerate(features):
            self.register_buffer(f"rotation_{m}", torch.zeros(width, hub_features))
            self.register_buffer(f"mean_{m}", torch.zeros(width))
            self.register_buffer(f"unit_{m}", torch.ones(()))
            self.register_buffer(f"offset_{m}", torch.zeros(hub_features))
        self.register_buffer("objective", torch.zeros(()))
        self.register_buffer("iterations", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def fit(self, spaces: Sequence[Tensor], weights: Tensor | None = None) -> Self:
        """Fit on the same N samples in all spaces; on an error nothing changes.

        Args:
            spaces: Rows ``(N, D_m)`` of each space, in the same order.
            weights: Non-negative weights ``(M, N)``, or a mask: 0 or False where a space lacks a
                sample. What stands in such a row is not looked at. 1 each by default.
        """
        w = self._checked(spaces, weights)
        energies, means, units, rows = [], [], [], []
        for m, space in enumerate(spaces):
            present = torch.where(w[m, :, None] > 0, as_float64(space).to(w.device), 0)
            mean = w[m] @ present / w[m].sum()
            rest = torch.where(w[m, :, None] > 0, present - mean, 0)
            energy = w[m] @ rest.square().sum(1)
            if is_constant(energy, w[m] @ present.square().sum(1), rounding_of(space.dtype)):
                raise ValueError(
                    f"`spaces[{m}]` must vary, got rows that are all equal. Give at least two "
                    "different rows."
                )
            unit = (energy / w[m].sum()).sqrt() if self.rescale else torch.ones_like(energy)
            means.append(mean)
            units.append(unit)
            rows.append(rest / unit)
            energies.append(energy / unit**2)
        solution = _Alternation(rows, w, self.hub_features)
        energy, levels = torch.stack(energies).sum(), [float("inf")]
        while len(levels) <= self.max_iterations:
            solution.step()
            levels.append(float(solution.objective() / energy))
            if levels[-2] - levels[-1] <= self.tolerance:
                break
        else:
            warn(
                f"The alternation was still falling after {self.max_iterations} rounds, at "
                f"{levels[-1]:.3g} of the energy. Raise `max_iterations` or `tolerance`."
            )
        solution.fix_gauge()
        found = {"rotation": solution.rotations, "mean": means, "unit": units}
        found["offset"] = solution.offsets
        values = {f"{name}_{m}": t for name, each in found.items() for m, t in enumerate(each)}
        self._check_fits(**values)
        self.mark_fitted(False)  # while some buffers hold what is new, and some what was
        for name, value in values.items():
            getattr(self, name).copy_(value)
        self.objective.fill_(max(levels[-1], 0.0))
        self.iterations.fill_(len(levels) - 1)
        self.mark_fitted()
        return self

    def to_hub(self, x: Tensor, i: int) -> Tensor:
        """Vectors ``(..., D_i)`` of space i in the hub, ``(..., H)``."""
        self._ready("x", x, i, self.features)
        with full_precision(x):
            wide = at_least_float32(x)
            rotation, mean, unit, offset = self._map(i, wide)
            return (((wide - mean) / unit) @ rotation + offset).to(x.dtype)

    def from_hub(self, z: Tensor, j: int) -> Tensor:
        """Vectors ``(..., H)`` of the hub in space j, ``(..., D_j)``."""
        self._ready("z", z, j, [self.hub_features] * len(self.features))
        with full_precision(z):
            wide = at_least_float32(z)
            rotation, mean, unit, offset = self._map(j, wide)
            return (((wide - offset) @ rotation.mT) * unit + mean).to(z.dtype)

    def forward(self, x: Tensor, i: int, j: int) -> Tensor:
        """Vectors ``(..., D_i)`` of space i in space j, ``(..., D_j)``: `translate`."""
        return self.translate(x, i, j)

    def translate(self, x: Tensor, i: int, j: int) -> Tensor:
        """Vectors ``(..., D_i)`` of space i in space j, ``(..., D_j)``, by way of the hub."""
        hub = self.to_hub(at_least_float32(x), i)
        return self.from_hub(hub, j).to(x.dtype)

    def extra_repr(self) -> str:
        """Constructor call."""
        return (
            f"{self.features}, {self.hub_features}, rescale={self.rescale}, "
            f"tolerance={self.tolerance}, max_iterations={self.max_iterations}"
        )

    def _of(self, name: str, m: int) -> Tensor:
        buffer: Tensor = getattr(self, f"{name}_{m}")
        return buffer

    def _map(self, m: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rotation, mean, unit, offset = (
            self._of(name, m).to(like.dtype) for name in ("rotation", "mean", "unit", "offset")
        )
        return rotation, mean, unit, offset

    def _ready(self, name: str, rows: Tensor, m: int, widths: list[int]) -> None:
        self.require_fitted("Call `fit(spaces)` first.")
        if isinstance(m, bool) or not isinstance(m, int) or not 0 <= m < len(widths):
            raise ValueError(
                f"a space must be an index from 0 to {len(widths) - 1}, got {m!r}: there are "
                f"{len(widths)} spaces."
            )
        checks.check_features(name, rows, widths[m])

    def _checked(self, spaces: Sequence[Tensor], weights: Tensor | None) -> Tensor:
        """Weights ``(M, N)`` in float64, when spaces and weights can be used."""
        if len(spaces) != len(self.features):
            raise ValueError(
                f"`spaces` must hold {len(self.features)} tensors, one a space, got {len(spaces)}."
            )
        for m, (space, width) in enumerate(zip(spaces, self.features, strict=True)):
            checks.check_rows(f"spaces[{m}]", space, width, minimum=2)
            checks.check_paired(spaces[0], space, ("spaces[0]", f"spaces[{m}]"))
        n = len(spaces[0])
        device = as_float64(spaces[0][:0]).device
        if weights is None:
            w = torch.ones(len(spaces), n, dtype=torch.float64, device=device)
        else:
            if not isinstance(weights, Tensor) or weights.shape != (len(spaces), n):
                came = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights)
                raise ValueError(
                    f"`weights` must have one entry for each space and sample, shape "
                    f"({len(spaces)}, {n}), got {came}."
                )
            w = weights.to(device=device, dtype=torch.float64)
            for row in w:
                checks.check_weights(row, n)
        for m, space in enumerate(spaces):
            checks.check_finite(f"spaces[{m}]", space[w[m].to(space.device) > 0])
        _check_linked(w)
        return w


class _Alternation:
    """Hub, maps and offsets of centred rows, improved in turn."""

    def __init__(self, rows: list[Tensor], w: Tensor, hub_features: int) -> None:
        self.rows, self.w = rows, w
        whole = bool((w > 0).all())
        self.hub = (_maxvar if whole else _chained)(rows, w, hub_features)
        self.total = w.sum(0)
        self.rotations: list[Tensor] = []
        self.offsets: list[Tensor] = []

    def step(self) -> None:
        """Each map for the hub, then the hub for the maps: both exact."""
        self.offsets = [w @ self.hub / w.sum() for w in self.w]
        self.rotations = [
            polar_factor((rows * w[:, None]).mT @ (self.hub - offset))
            for rows, w, offset in zip(self.rows, self.w, self.offsets, strict=True)
        ]
        parts = zip(self.rows, self.w, self.rotations, self.offsets, strict=True)
        moved = sum(w[:, None] * (rows @ rotation + offset) for rows, w, rotation, offset in parts)
        # A sample that no space has weighs nothing anywhere.
        self.hub = moved / torch.where(self.total > 0, self.total, 1)[:, None]

    def objective(self) -> Tensor:
        """What is minimised; see the class that uses this one."""
        value = self.hub.new_zeros(())
        parts = zip(self.rows, self.w, self.rotations, self.offsets, strict=True)
        for rows, w, rotation, offset in parts:
            rest = self.hub - offset
            products = rows.square().sum(1) - 2 * ((rows @ rotation) * rest).sum(1)
            value = value + w @ (products + rest.square().sum(1))
        return value

    def fix_gauge(self) -> None:
        """Turn and shift the hub to its principal axes about its mean, with signs by a rule."""
        mean = self.total @ self.hub / self.total.sum()
        rest = (self.hub - mean) * self.total.sqrt()[:, None]
        triangle = torch.linalg.qr(rest, mode="r").R  # has the axes of all rows, in H of them
        axes = torch.linalg.svd(triangle, full_matrices=True).Vh.mT
        scores = rest @ axes
        peaks = scores.gather(0, scores.abs().argmax(0, keepdim=True))
        axes = axes * torch.where(peaks < 0, -1, 1)
        self.hub = (self.hub - mean) @ axes
        self.rotations = [rotation @ axes for rotation in self.rotations]
        self.offsets = [(offset - mean) @ axes for offset in self.offsets]


def _maxvar(rows: list[Tensor], w: Tensor, hub_features: int) -> Tensor:
    """Leading left singular vectors of the softly whitened spaces side by side, ``(N, H)``."""
    whitened = []
    for side, weights in zip(rows, w, strict=True):
        values, vectors = torch.linalg.eigh((side * weights[:, None]).mT @ side)
        values = values.clamp(min=0)
        # Twice the variance of the average direction, weighted by variance: no choice to make.
        ridge = 2 * values.square().sum() / values.sum()
        whitened.append((side @ vectors) * (values + ridge).rsqrt())
    leading = torch.linalg.svd(torch.cat(whitened, 1), full_matrices=False)
    hub = leading.U * leading.S
    missing = hub_features - hub.shape[1]
    return torch.nn.functional.pad(hub, (0, max(missing, 0)))[:, :hub_features]


def _chained(rows: list[Tensor], w: Tensor, hub_features: int) -> Tensor:
    """The principal axes of one space, to which the others are brought one by one, ``(N, H)``.

    For spaces with missing rows, which have no joint decomposition: each is brought to the mean of
    those before it, on the samples it shares with them, the largest share first.
    """
    first = int(w.sum(1).argmax())
    moment = (rows[first] * w[first, :, None]).mT @ rows[first]
    axes = torch.linalg.eigh(moment).eigenvectors.flip(1)[:, :hub_features]
    missing = hub_features - axes.shape[1]
    moved = torch.nn.functional.pad(rows[first] @ axes, (0, missing))
    hub, total = moved * w[first, :, None], w[first].clone()
    left = set(range(len(rows))) - {first}
    while left:
        shared = {m: float(torch.minimum(w[m], total).sum()) for m in sorted(left)}
        m = max(shared, key=lambda m: shared[m])
        left.remove(m)
        joint = torch.minimum(w[m], total)
        target = hub / torch.where(total > 0, total, 1)[:, None]
        mean_x, mean_z = (joint @ side / joint.sum() for side in (rows[m], target))
        moment = ((rows[m] - mean_x) * joint[:, None]).mT @ (target - mean_z)
        moved = (rows[m] - mean_x) @ polar_factor(moment) + mean_z
        hub, total = hub + moved * w[m, :, None], total + w[m]
    return hub / torch.where(total > 0, total, 1)[:, None]


def _check_linked(w: Tensor) -> None:
    """Refuse spaces that fall into groups without a common sample: nothing relates them."""
    shared = ((w > 0).double() @ (w > 0).double().mT) > 0
    reached = shared[0]
    for _ in range(len(w)):
        reached = shared[reached].any(0)
    if not bool(reached.all()):
        alone = (~reached).nonzero().flatten().tolist()
        raise ValueError(
            f"`weights` leaves no samples that link spaces {alone} with space 0, directly or by "
            "others. Give samples that are present in spaces of both groups."
        )
