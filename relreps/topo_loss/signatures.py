"""Topological autoencoder: a latent space keeps the distances that connect the data."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from relreps._core import checks
from relreps._core.linalg import at_least_float32, full_precision
from relreps.topo_loss.clouds import check_same_samples, diameter, mean
from relreps.topo_loss.kinds import MetricLike, resolve_metric
from relreps.topo_loss.metric import Metric
from relreps.topo_loss.norms import norm
from relreps.topo_loss.trees import spanning_edges

Normalize: TypeAlias = Literal["max", "none", "learned"]


def signature_loss(
    x: Tensor,
    z: Tensor,
    *,
    metric: MetricLike = "l2",
    normalize: Normalize = "max",
    scale: Tensor | float | None = None,
    squared: bool = True,
) -> Tensor:
    r"""How far two clouds disagree on the edges that connect each of them; see `SignatureLoss`.

    Args:
        x: Points of the data.
        z: The same samples in the latent space.
        metric: Metric of both, see `death_times`.
        normalize: ``"max"``, ``"none"`` or ``"learned"``.
        scale: What the distances of ``z`` are divided by; given with ``"learned"``, and only then.
        squared: Squared norms.

    Shape:
        - x: :math:`(*, n, D_1)`; z: :math:`(*, n, D_2)`. Output: :math:`(*)`.
    """
    checks.check_choice("normalize", normalize, get_args(Normalize))
    if (scale is None) == (normalize == "learned"):
        raise ValueError(
            "`scale` must be given with `normalize` 'learned' and without any other, got "
            f"{'none' if scale is None else scale} with {normalize!r}."
        )
    if scale is not None and not isinstance(scale, Tensor):
        checks.check_positive("scale", scale)
    rule = resolve_metric(metric)
    check_same_samples(("x", "z"), x, z, rule)
    return _halves(_gaps(x, z, rule, normalize, scale), squared).to(z.dtype)


class SignatureLoss(nn.Module):
    r"""Keeps, in a latent space, the lengths of the edges that connect the data, and vice versa.

    .. math:: \tfrac12 \lVert D^X[\pi^X] - D^Z[\pi^X] \rVert^2 +
              \tfrac12 \lVert D^Z[\pi^Z] - D^X[\pi^Z] \rVert^2

    with the edges :math:`\pi^X` and :math:`\pi^Z` of the minimum spanning trees of both clouds: the
    same pairs of samples are compared in both spaces. The mean over clouds is taken. Edges are
    selected without gradient; their lengths, and what normalises them, carry it to both clouds. A
    cloud of fewer than two points counts zero. With ``"max"`` the loss is invariant to isometries
    and scale of either space. Where distances of a cloud tie it has several trees, and which one is
    taken depends on the order of the samples; so does the loss then, unlike that of `rtd_lite`.
    O(n² (D1 + D2)) time, O(n²) memory.

    Args:
        metric: Metric of both spaces, see `death_times`; ``"precomputed"`` takes distances.
        normalize: ``"max"`` divides the distances of each cloud by its largest; ``"learned"``
            those of ``x`` only, and those of ``z`` by the parameter ``scale``, at first 1, as the
            released code does; ``"none"`` leaves both as they are.
        squared: Squared norms, as above and in the paper; otherwise half the norms themselves.

    Shape:
        - x: :math:`(*, n, D_1)`; z: :math:`(*, n, D_2)`. Output: scalar.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [3.0]])
        >>> SignatureLoss(normalize="none")(x, 2 * x)
        tensor(5.)

    References:
        Moor et al., arXiv:1906.00722. The released code has no factor one half and divides by n.
    """

    scale: nn.Parameter | None

    def __init__(
        self, *, metric: MetricLike = "l2", normalize: Normalize = "max", squared: bool = True
    ) -> None:
        super().__init__()
        self._metric = resolve_metric(metric)
        checks.check_choice("normalize", normalize, get_args(Normalize))
        self.metric = metric
        self.normalize: Normalize = normalize
        self.squared = squared
        self.scale = nn.Parameter(torch.ones(())) if normalize == "learned" else None

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Mean loss of the clouds."""
        check_same_samples(("x", "z"), x, z, self._metric)
        gaps = _gaps(x, z, self._metric, self.normalize, self.scale)
        return mean(_halves(gaps, self.squared)).to(z.dtype)

    def extra_repr(self) -> str:
        """Constructor call."""
        return f"metric={self.metric!r}, normalize={self.normalize!r}, squared={self.squared}"


def _gaps(
    x: Tensor, z: Tensor, metric: Metric, normalize: Normalize, scale: Tensor | float | None
) -> Tensor:
    """Differences of the lengths of edges ``(..., 2, n - 1)``, a row for the tree of each cloud."""
    x, z = at_least_float32(x), at_least_float32(z)
    with full_precision(x):
        if normalize != "none":
            x = metric.in_own_unit(x)
        if normalize == "max":
            z = metric.in_own_unit(z)
        trees = [spanning_edges(cloud, metric) for cloud in (x, z)]
        both = torch.cat(trees, -2)
        in_x, in_z = metric.measure(x, both), metric.measure(z, both)
        if normalize != "none":
            in_x = in_x / diameter(x, metric)
        if normalize == "max":
            in_z = in_z / diameter(z, metric)
        elif scale is not None:
            in_z = in_z / scale
    gaps: Tensor = (in_x - in_z).unflatten(-1, (2, trees[0].shape[-2]))
    return gaps


def _halves(gaps: Tensor, squared: bool) -> Tensor:
    """Half the sum over both trees of the squared norms, or of the norms."""
    sizes = gaps.square().sum(-1) if squared else norm(gaps, 2.0)
    total: Tensor = sizes.sum(-1) / 2
    return total
