"""What exists only to reproduce released code, where a published number depends on it.

Each has a sibling that does the mathematics right, named in its docstring: take that one for
anything else.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn

from relreps._core import checks
from relreps._core.draws import device_of
from relreps._core.linalg import as_float64, full_precision
from relreps.projection import RelativeProjection
from relreps.translate.matrix import MatrixTranslator, Post, Preprocessing
from relreps.translate.problem import Problem, Solution

__all__ = ["RunningRelativeProjection", "SGDAffineTranslator", "both_placements"]


class RunningRelativeProjection(RelativeProjection):
    r"""The robust relative transformation with running statistics, as released, for parity.

    A batch normalisation without learned scale serves samples and anchors alike. While training,
    the samples are scaled by their own batch and the anchors by themselves, and each call moves one
    running mean and variance first towards the samples, then towards the anchors, which therefore
    settle on about 41 % samples and 59 % anchors (with momentum 0.3). In eval the running
    statistics serve both. So a training code depends on the batch, the first steps are dominated by
    the initial 0 and 1, and the absolute epsilon ties the code to the unit of the space: nothing is
    declared. For anything but parity use ``pre=StandardScale(in_features)``. The anchors are
    compared anew at every call: O((N + A) D) more than `RelativeProjection`.

    Args:
        in_features: Width D of the space.
        num_anchors: Number of anchors A.
        momentum: Weight of the newest statistics.
        eps: Added to the variance.

    Shape:
        - Input: :math:`(N, D)`. Output: :math:`(N, A)`.

    References:
        Released code of arXiv:2409.10967.
    """

    def __init__(
        self, in_features: int, num_anchors: int, momentum: float = 0.3, eps: float = 1e-5
    ) -> None:
        super().__init__(in_features, num_anchors)
        self.momentum, self.eps = momentum, eps
        self.norm = nn.BatchNorm1d(in_features, eps=eps, momentum=momentum, affine=False)

    @classmethod
    def from_anchors(cls, anchors: Tensor) -> Self:  # type: ignore[override]
        """A projection with the sizes, dtype and device of ``anchors`` ``(A, D)``."""
        checks.check_rows("anchors", anchors)
        projection = cls(anchors.shape[1], anchors.shape[0]).to(anchors.device, anchors.dtype)
        return projection.set_anchors(anchors)

    @property
    def invariant_to(self) -> frozenset[str]:
        """Nothing: the running statistics do not move along with the space."""
        return frozenset()

    def forward(self, x: Tensor) -> Tensor:
        """Code of the samples ``(..., D)``; moves the running statistics while training."""
        self.require_fitted(self._unset)
        checks.check_features("x", x, self.in_features)
        return self.project(x, self.anchors.to(x.dtype))

    def project(self, x: Tensor, anchors: Tensor) -> Tensor:
        """Code of ``x`` for anchors given at the call."""
        return super().project(self._normalize(x), self._normalize(anchors))

    def inverse(self, code: Tensor) -> Tensor:
        """There is none."""
        raise ValueError(f"{self} has no inverse.")

    def _normalize(self, x: Tensor) -> Tensor:
        kind = self.norm.running_mean.dtype  # type: ignore[union-attr]
        flat: Tensor = self.norm(x.reshape(-1, self.in_features).to(kind))
        return flat.reshape(x.shape).to(x.dtype)


class SGDAffineTranslator(MatrixTranslator):
    r"""Affine map by a few steps of Adam on the squared error, as published tables have it.

    Few steps stop long before the optimum, which acts as a regulariser that depends on the start
    and the number of steps: this one is for parity with the paper, `AffineTranslator` is exact.
    Needs the rows, all at once. Fit: O(max_iterations N D_x D_y). A call: one matrix product.

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        max_iterations: Number of steps, each on all pairs.
        lr: Learning rate.
        pre: ``"center"`` or ``"standard"``.
        post: ``"unit"`` brings moved rows to length one.

    Shape:
        - Input: :math:`(*, D_x)`. Output: :math:`(*, D_y)`.

    Attributes:
        rank: Number of directions of the map, of ``min(in_features, out_features)``.

    Raises:
        RuntimeError: Used before `fit`.
        ValueError: Unpaired or non-finite rows, wrong sizes, pairs that determine nothing.

    Example:
        >>> x = torch.randn(50, 4)
        >>> SGDAffineTranslator(4, 4).fit(x, 2 * x)(x).shape
        torch.Size([50, 4])

    References:
        Maiorca et al., arXiv:2311.00664 (``affine``).
    """

    centering = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        max_iterations: int = 300,
        lr: float = 1e-3,
        pre: Preprocessing = "standard",
        post: Post | None = None,
    ) -> None:
        super().__init__(in_features, out_features, pre, post=post)
        max_iterations = checks.check_size("max_iterations", max_iterations)
        checks.check_positive("lr", lr)
        self.max_iterations, self.lr = max_iterations, lr

    @torch.no_grad()
    def fit(
        self,
        x: Tensor,
        y: Tensor,
        weights: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Self:
        """Fit on paired rows ``x (N, D_x)`` and ``y (N, D_y)``; on an error nothing changes.

        Args:
            x: Source rows.
            y: Target rows of the same samples, in the same order.
            weights: One non-negative weight a pair; 1 each by default.
            generator: Source of the start; torch's default one if not given.
        """
        checks.check_generator(generator)
        self._check_pairs(x, y)
        if weights is not None:
            checks.check_weights(weights, x.shape[0])
        moments = self._moments(x, y, weights)
        dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
        return self._solve(moments, (x, y), weights, dtype=dtype, generator=generator)

    def solution(
        self,
        problem: Problem,
        dtype: torch.dtype = torch.float32,
        generator: torch.Generator | None = None,
    ) -> Solution:
        """What Adam makes of a random start."""
        if problem.rows is None:
            raise ValueError(f"{type(self).__name__} needs the rows: call `fit`.")
        left, right = problem.rows()
        w = left.new_ones(len(left)) if problem.weights is None else problem.weights.to(left)
        w = (w / w.sum() / right.shape[1])[:, None]
        # Tensors of their own, which inference mode outside does not keep from having gradients.
        with torch.inference_mode(False), torch.enable_grad(), full_precision(left):
            left, right, w = (t.clone().to(dtype) for t in (left, right, w))
            matrix, bias = (
                self._start(shape, left, generator)
                for shape in (self.matrix.shape, right.shape[1:])
            )
            optimizer = torch.optim.Adam((matrix, bias), self.lr)
            for _ in range(self.max_iterations):
                optimizer.zero_grad()
                (w * (torch.addmm(bias, left, matrix) - right).square()).sum().backward()
                optimizer.step()
        return Solution(as_float64(matrix.detach()), offset=as_float64(bias.detach()))

    def _start(
        self, shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Uniform within the inverse root of the number of inputs, as a linear layer starts."""
        device = device_of(generator)
        start = torch.rand(shape, dtype=like.dtype, device=device, generator=generator)
        bound: float = self.in_features**-0.5
        return ((2 * start - 1) * bound).to(like.device).requires_grad_()


def both_placements(
    before: Tensor, after: Tensor, weights: tuple[float, float] = (0.1, 0.9)
) -> Tensor:
    r"""Weigh two terms of a loss, :math:`w_1 L(z) + w_2 L(r)`.

    For a loss placed both before and after a relative projection: one term on the encodings z, the
    other on their codes r, each with its own scale and metric.

    Args:
        before: Loss of the encodings.
        after: Loss of the codes.
        weights: Of each; the default is the published one, with ``metric="l2"`` before.

    Example:
        >>> z = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
        >>> r = torch.nn.functional.normalize(z)
        >>> from relreps import topological_densification_loss as loss
        >>> both_placements(loss(z, 3.0), loss(r, 1.0, metric="cosine"))
        tensor(0.7806)

    References:
        arXiv:2409.10967, the released code.
    """
    if not isinstance(weights, tuple | list) or len(weights) != 2:
        raise ValueError(f"`weights` must be two numbers, got {weights!r}.")
    for weight in weights:
        checks.check_number("weights", weight, 0, math.inf)
    return weights[0] * before + weights[1] * after
