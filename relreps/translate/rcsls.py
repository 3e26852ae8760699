"""A linear map trained for retrieval: relaxed CSLS."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import full_precision, unit_rows
from relreps.correspondence.neighbors import check_common_space
from relreps.translate.matrix import MatrixTranslator, Post, Preprocessing
from relreps.translate.problem import Problem, Solution
from relreps.translate.procrustes import determined_rotation


def rcsls_loss(x: Tensor, y: Tensor, k: int = 10) -> Tensor:
    r"""Relaxed CSLS: what a linear map that is judged by `csls` should be trained on.

    .. math:: -\frac1n \sum_i \Bigl( 2\langle x_i, y_i\rangle
              - \frac1k \sum_{j \in N_k(x_i)} \langle x_i, y_j\rangle
              - \frac1k \sum_{j \in N_k(y_i)} \langle x_j, y_i\rangle \Bigr)

    Rows are taken as they are: bring them to length one, then translate ``x``. As a function of a
    linear map before ``x`` it is convex. The gradient is exact, the neighbours are constant in it.
    O(N^2 D) time, O(N^2) memory.

    Args:
        x: Translated rows.
        y: Their partners, row by row.
        k: Number of neighbours, at most the rows.

    Shape:
        - x, y: :math:`(N, D)`. Output: scalar.

    Example:
        >>> rcsls_loss(torch.eye(2), torch.eye(2), k=2)
        tensor(-1.)

    References:
        Joulin et al., arXiv:1804.07745.
    """
    check_common_space(x, y, k)
    checks.check_paired(x, y)
    with full_precision(x):
        dtype = torch.promote_types(x.dtype, y.dtype)
        wide = torch.promote_types(dtype, torch.float32)
        return _relaxed_csls(x.to(wide), y.to(wide), k).to(dtype)


def _relaxed_csls(x: Tensor, y: Tensor, k: int) -> Tensor:
    """`rcsls_loss` of checked rows."""
    products = x @ y.mT
    near = products.topk(k, 1).values.mean(1) + products.topk(k, 0).values.mean(0)
    loss: Tensor = (near - 2 * products.diagonal()).mean()
    return loss


class RCSLSTranslator(MatrixTranslator):
    r"""A linear map trained for retrieval with `csls`.

    Starts at the Procrustes map and descends `rcsls_loss`; singular values stay at most 1, the
    ball on which the loss is convex. The step size is halved whenever the loss rises, and that step
    is taken back. The map is not orthogonal, hence learns from paired rows what
    `ProcrustesTranslator` cannot, and can overfit where pairs are few: it needs several for each
    dimension. O(max_iterations (N^2 D + D^3)) time and O(N^2) memory, in float64; `fit` only, since
    neighbours do not stream.

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        k: Number of neighbours.
        max_iterations: Number of gradient steps.
        lr: First step size.
        pre: Pre-processing, as in `ProcrustesTranslator`; the loss sees rows of length one.

    Shape:
        - Input: :math:`(*, D_x)`. Output: :math:`(*, D_y)`.

    Attributes:
        loss: `rcsls_loss` of the pairs at the end.

    Raises:
        RuntimeError: Used before `fit`.
        ValueError: Unpaired or non-finite rows, wrong sizes, fewer pairs than neighbours.

    Example:
        >>> x = torch.randn(100, 4)
        >>> translator = RCSLSTranslator(4, 4).fit(x, x.flip(1))
        >>> bool((translator(x) @ x.flip(1).T).diagonal().gt(0).all())
        True

    References:
        Joulin et al., arXiv:1804.07745. Its released code keeps the raised loss's step, as the
        matrix that should be restored is an alias of the one edited; here it is taken back.
    """

    loss: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        k: int = 10,
        max_iterations: int = 20,
        lr: float = 1.0,
        pre: Preprocessing | None = "center",
        post: Post | None = None,
    ) -> None:
        super().__init__(in_features, out_features, pre, post=post)
        k = checks.check_size("k", k)
        max_iterations = checks.check_size("max_iterations", max_iterations)
        checks.check_positive("lr", lr)
        self.k, self.max_iterations, self.lr = k, max_iterations, lr
        self.register_buffer("loss", torch.zeros(()))

    def fit(self, x: Tensor, y: Tensor, weights: None = None) -> Self:  # type: ignore[override]
        """Fit on paired rows ``x (N, D_x)`` and ``y (N, D_y)``; on an error nothing changes.

        Args:
            x: Source rows.
            y: Target rows of the same samples, in the same order.
            weights: None only: the loss has no weights.
        """
        if weights is not None:
            raise ValueError("RCSLSTranslator takes no `weights`; repeat pairs that count more.")
        self._check_pairs(x, y)
        checks.check_k(self.k, len(x))
        return super().fit(x, y)

    def solution(self, problem: Problem) -> Solution:
        """Descent from the Procrustes map, in steps that are halved where the loss rises."""
        if problem.rows is None:
            raise ValueError("RCSLSTranslator needs the rows: call `fit`.")
        left, right = map(unit_rows, problem.rows())
        matrix, lr = determined_rotation(problem, left.mT @ right)[0], self.lr
        loss, gradient = self._descent(left, right, matrix)
        for _ in range(self.max_iterations):
            tried = _into_ball(matrix - lr * gradient)
            new_loss, new_gradient = self._descent(left, right, tried)
            if new_loss < loss:
                matrix, loss, gradient = tried, new_loss, new_gradient
            else:
                lr /= 2
        return Solution(matrix, buffers={"loss": loss})

    def _descent(self, left: Tensor, right: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            left, right = left.clone(), right.clone()  # no tensors of inference mode
            matrix = matrix.clone().requires_grad_()
            loss = _relaxed_csls(left @ matrix, right, self.k)
            (gradient,) = torch.autograd.grad(loss, matrix)
        return loss.detach(), gradient


def _into_ball(matrix: Tensor) -> Tensor:
    """The nearest matrix whose singular values are at most 1."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    inside: Tensor = (u * s.clamp(max=1)) @ vh
    return inside
