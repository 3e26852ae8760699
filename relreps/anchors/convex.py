"""Anchors that are learned: mixtures of shared samples, with the losses that shape them."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn

from relreps._core import checks
from relreps._core.linalg import at_least_float32, full_precision, unit_rows
from relreps._core.state import Stateful


class ConvexAnchors(Stateful):
    r"""Trainable anchors that stay parallel in every space: mixtures of a shared set of samples.

    .. math:: A(X) = \operatorname{softmax}(Q / \tau)\, X

    The weights belong to the samples, not to a space: the same module gives the anchors of every
    encoder that has encoded these samples, and training them in one space moves them in all. Rows
    of weights sum to one, so an affine map of the space maps the anchors along:
    ``module(x @ m + t)`` is ``module(x) @ m + t``. Train them with the loss of a task on the
    relative code, with `coverage_loss` and `diversity_loss`, or all together.

    At first each anchor is 0.9 of a sample of its own, drawn at random, and 0.1 of the mean of the
    others: all anchors at the mean would be equal and stay so. `start_at` chooses the samples.
    O(NAD) a call, O(NA) parameters.

    Args:
        num_samples: Number of samples N that are mixed.
        num_anchors: Number of anchors A.
        temperature: :math:`\tau`; the smaller, the sooner an anchor settles on few samples.

    Shape:
        - samples: :math:`(*, N, D)`. Output: :math:`(*, A, D)`.

    Raises:
        ValueError: If there are more anchors than samples.

    Example:
        >>> anchors = ConvexAnchors(num_samples=50, num_anchors=4)
        >>> x, y = torch.randn(50, 8), torch.randn(50, 6)  # two encoders, the same samples
        >>> anchors(x).shape, anchors(y).shape
        (torch.Size([4, 8]), torch.Size([4, 6]))

    References:
        Learned convex anchors, arXiv:2605.30596 (temperature 0.2).
    """

    logits: nn.Parameter

    def __init__(self, num_samples: int, num_anchors: int, *, temperature: float = 0.2) -> None:
        super().__init__()
        num_samples = checks.check_size("num_samples", num_samples)
        num_anchors = checks.check_size("num_anchors", num_anchors)
        if num_anchors > num_samples:
            raise ValueError(
                f"`num_anchors` must be at most `num_samples`, got {num_anchors} anchors and "
                f"{num_samples} samples. Mix more samples or ask for fewer anchors."
            )
        checks.check_positive("temperature", temperature)
        self.num_samples, self.num_anchors = num_samples, num_anchors
        self.temperature = temperature
        self.logits = nn.Parameter(torch.empty(num_anchors, num_samples))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start every anchor near a sample of its own, drawn at random."""
        self._start(torch.randperm(self.num_samples, device=self.logits.device))

    @torch.no_grad()
    def start_at(self, indices: Tensor) -> Self:
        """Start anchor ``j`` near sample ``indices[j]``, as a sampler picked them ``(A,)``."""
        anchors, samples = self.num_anchors, self.num_samples
        if not isinstance(indices, Tensor) or indices.dtype != torch.long:
            came = indices.dtype if isinstance(indices, Tensor) else type(indices).__name__
            raise TypeError(f"`indices` must be a torch.long tensor, got {came}.")
        if indices.shape != (anchors,):
            raise ValueError(
                f"`indices` must have shape ({anchors},), one sample an anchor, "
                f"got {tuple(indices.shape)}."
            )
        if not 0 <= int(indices.min()) <= int(indices.max()) < samples:
            raise ValueError(
                f"`indices` must lie in [0, {samples}), got {int(indices.min())} to "
                f"{int(indices.max())}."
            )
        if len(indices.unique()) < anchors:
            raise ValueError("`indices` must differ: equal starts make equal anchors for good.")
        self._start(indices.to(self.logits.device))
        return self

    @property
    def weights(self) -> Tensor:
        """Share of each sample in each anchor ``(A, N)``; rows sum to one."""
        return torch.softmax(at_least_float32(self.logits) / self.temperature, -1)

    def forward(self, samples: Tensor) -> Tensor:
        """Anchors of the space in which ``samples`` ``(*, N, D)`` are encoded."""
        checks.check_floating("samples", samples)
        if samples.dim() < 2 or samples.shape[-2] != self.num_samples:
            raise ValueError(
                f"`samples` must have shape (..., {self.num_samples}, features), got "
                f"{tuple(samples.shape)}. Encode the same samples, in the same order."
            )
        return self.weights.to(samples.dtype) @ samples

    def extra_repr(self) -> str:
        """Constructor call."""
        return f"{self.num_samples}, {self.num_anchors}, temperature={self.temperature}"

    @torch.no_grad()
    def _start(self, indices: Tensor) -> None:
        # One logit h among N - 1 zeros: the weight e^(h/t) / (e^(h/t) + N - 1) is 0.9 where
        # e^(h/t) = 9 (N - 1).
        high = self.temperature * math.log(9 * max(self.num_samples - 1, 1))
        self.logits.zero_()
        self.logits.scatter_(1, indices[: self.num_anchors, None], high)


def coverage_loss(
    x: Tensor, anchors: Tensor, *, normalize: bool = True, temperature: float = 0.0
) -> Tensor:
    r"""How far samples are from their nearest anchor: the mean squared distance.

    .. math:: \frac{1}{N} \sum_i \operatorname{min}_j \lVert x_i - a_j \rVert_2^2

    What k-means minimises. Adding an anchor never raises it. With a temperature the minimum is the
    soft one, :math:`-\tau \log \sum_j e^{-d_{ij} / \tau}`, and anchors that are nearest to nothing
    get a gradient too. O(NAD) time, O(NA) memory.

    Args:
        x: Samples.
        anchors: Anchors.
        normalize: Compare directions (rows scaled to length one) rather than positions.
        temperature: :math:`\tau` of the soft minimum; 0 for the minimum itself.

    Shape:
        - x: :math:`(N, D)`. anchors: :math:`(A, D)`. Output: a scalar.

    Example:
        >>> x = torch.eye(2)
        >>> coverage_loss(x, x[:1]), coverage_loss(x, x)
        (tensor(1.), tensor(0.))
    """
    checks.check_rows("x", x)
    checks.check_rows("anchors", anchors, x.shape[1])
    checks.check_device(x, anchors, ("x", "anchors"))
    if temperature != 0:
        checks.check_positive("temperature", temperature)
    with full_precision(x):
        return _coverage(x, anchors, normalize, temperature).to(x.dtype)


def _coverage(x: Tensor, anchors: Tensor, normalize: bool, temperature: float) -> Tensor:
    """`coverage_loss` in at least float32."""
    wide = torch.promote_types(at_least_float32(x[:0]).dtype, anchors.dtype)
    rows, centers = x.to(wide), anchors.to(wide)
    if normalize:
        rows, centers = unit_rows(rows), unit_rows(centers)
    else:  # far from the origin, products of positions cancel
        middle = centers.detach().mean(0)
        rows, centers = rows - middle, centers - middle
    if temperature > 0:
        squares = rows.square().sum(-1, keepdim=True) + centers.square().sum(-1)
        distances = (squares - 2 * rows @ centers.mT).clamp(min=0)
        return (-temperature * torch.logsumexp(-distances / temperature, -1)).mean()
    with torch.no_grad():
        nearest = (centers.square().sum(-1) / 2 - rows @ centers.mT).argmin(-1)
    return (rows - centers[nearest]).square().sum(-1).mean()


def diversity_loss(anchors: Tensor) -> Tensor:
    r"""How alike anchors are: the mean squared cosine of two different ones.

    .. math:: \frac{1}{A (A - 1)} \sum_{i \ne j} \cos(a_i, a_j)^2

    In [0, 1]: 0 where all are orthogonal, 1 where all lie on one line, so that every column of a
    relative code is the same up to its sign. More anchors than dimensions cannot all be orthogonal:
    the least value is then :math:`(A - D) / (D (A - 1))` (Welch). One anchor gives 0. O(A²D).

    Args:
        anchors: Anchors.

    Shape:
        - anchors: :math:`(A, D)`. Output: a scalar.

    Example:
        >>> diversity_loss(torch.eye(3)), diversity_loss(torch.ones(3, 2))
        (tensor(0.), tensor(1.0000))
    """
    checks.check_rows("anchors", anchors)
    with full_precision(anchors):
        rows = unit_rows(at_least_float32(anchors))
        squares = (rows @ rows.mT).square()
    number = anchors.shape[0]
    others = squares.sum() - squares.diagonal().sum()
    return (others / max(number * (number - 1), 1)).to(anchors.dtype)
