"""Affine maps by gradient descent, as published tables have them."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from relreps import _checks
from relreps._linalg import as_float64, full_precision
from relreps.translate.base import Preprocessing, Translator


class SGDAffineTranslator(Translator):
    r"""Affine map by a few steps of Adam on the squared error, as published tables have it.

    Few steps stop long before the optimum, which acts as a regulariser that depends on the start
    and the number of steps: this one is for parity with the paper, `AffineTranslator` is exact.
    Needs the rows, all at once. Fit: O(steps N D_x D_y). A call: one matrix product.

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        steps: Number of steps, each on all pairs.
        lr: Learning rate.
        pre: ``"center"`` or ``"standard"``.
        generator: Source of the start; the global one by default.

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

    def __init__(
        self,
        in_features: int,
        out_features: int,
        steps: int = 300,
        lr: float = 1e-3,
        pre: Preprocessing = "standard",
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        _checks.check_choice("pre", pre, ("center", "standard"))
        super().__init__(in_features, out_features, pre)
        _checks.check_size("steps", steps)
        _checks.check_positive("lr", lr)
        _checks.check_generator(generator)
        self.steps, self.lr, self.generator = steps, lr, generator

    def fit(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> Self:
        """Fit on paired rows ``x (N, D_x)`` and ``y (N, D_y)``; on an error nothing changes.

        Args:
            x: Source rows.
            y: Target rows of the same samples, in the same order.
            weights: One non-negative weight a pair; 1 each by default.
        """
        self._checked(x, y, weights)
        with torch.no_grad():
            left, right, sides = self._prepared(x, y, weights)
            kind = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
            w = left.new_ones(len(left)) if weights is None else weights.to(left)
            squares = ((w[:, None] * side * side).sum() for side in (left, right))
            self._refuse_unrelated((w[:, None] * left).mT @ right, *squares)
            w = (w / w.sum() / right.shape[1])[:, None]
        # Tensors of their own, which inference mode outside does not keep from having gradients.
        with torch.inference_mode(False), torch.enable_grad(), full_precision(left):
            left, right, w = (t.clone().to(kind) for t in (left, right, w))
            matrix, bias = (
                self._start(shape, left) for shape in (self.matrix.shape, right.shape[1:])
            )
            optimizer = torch.optim.Adam((matrix, bias), self.lr)
            for _ in range(self.steps):
                optimizer.zero_grad()
                (w * (torch.addmm(bias, left, matrix) - right).square()).sum().backward()
                optimizer.step()
        with torch.no_grad():
            target = sides[1]._replace(mean=sides[1].mean + as_float64(bias) * sides[1].std)
            return self._write((sides[0], target), matrix=as_float64(matrix))

    def _options(self) -> list[str]:
        return [f"steps={self.steps}", f"lr={self.lr}", *super()._options()]

    def _start(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Uniform within the inverse root of the number of inputs, as a linear layer starts."""
        device = "cpu" if self.generator is None else self.generator.device
        start = torch.rand(shape, dtype=like.dtype, device=device, generator=self.generator)
        bound: float = self.in_features**-0.5
        return ((2 * start - 1) * bound).to(like.device).requires_grad_()
