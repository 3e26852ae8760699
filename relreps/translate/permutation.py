"""Maps that only exchange coordinates: what an element-wise non-linearity leaves free."""

from __future__ import annotations

import torch

from relreps._core.warnings import warn
from relreps.correspondence.transport import assign
from relreps.moments import elementwise
from relreps.translate.matrix import Post, Preprocessing
from relreps.translate.problem import Problem, Solution
from relreps.translate.streaming import MomentTranslator


class PermutationTranslator(MomentTranslator):
    r"""Give each feature of the source its place in the target, with or without a sign.

    .. math:: \max_{\pi}\ \sum_a M_{a \pi(a)} \quad\text{or}\quad
              \max_{\pi}\ \sum_a \lvert M_{a \pi(a)} \rvert, \qquad M = \sum_i p(x_i)^\top q(y_i)

    an assignment, solved exactly on the CPU by SciPy. Networks of one architecture trained from
    different starts differ in this way where the activation acts on each unit: use it for their
    hidden layers, and `ProcrustesTranslator` elsewhere. With different widths the features left
    over on the wider side are dropped, or set to their mean. Ties are settled by SciPy. Fit:
    O(N D_x D_y) and an assignment, O(D^3). A call: one matrix product.

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        signed: Whether a feature may change its sign, as with odd activations.
        pre: ``"center"``, ``"standard"`` (correlations are matched, and units change),
            ``"unit"`` or None, as in `ProcrustesTranslator`.
        post: ``"unit"`` brings moved rows to length one.

    Shape:
        - Input: :math:`(*, D_x)`. Output: :math:`(*, D_y)`.

    Attributes:
        matrix: The (signed) permutation, ``(D_x, D_y)``; with ``"standard"`` each entry is the
            ratio of the units of its two features.

    Raises:
        RuntimeError: Used before `fit`.
        ValueError: Unpaired or non-finite rows, wrong sizes, pairs that determine nothing.

    Example:
        >>> x = torch.randn(20, 3)
        >>> translator = PermutationTranslator(3, 3).fit(x, x[:, [2, 0, 1]] + 1)
        >>> translator.matrix
        tensor([[0., 1., 0.],
                [0., 0., 1.],
                [1., 0., 0.]])

    References:
        Ainsworth et al., arXiv:2209.04836, for activations; the group: arXiv:2205.14258.
    """

    products = (elementwise, elementwise)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        signed: bool = False,
        pre: Preprocessing | None = "center",
        post: Post | None = None,
    ) -> None:
        super().__init__(in_features, out_features, pre, post=post)
        self.signed = signed

    def solution(self, problem: Problem) -> Solution:
        """The assignment of features that agree most, over their products in the pairs."""
        m = problem.moments
        left, right = assign(m.xy.abs() if self.signed else m.xy)
        matched = m.xy[left, right]
        matrix = torch.zeros_like(m.xy)
        matrix[left, right] = torch.where(matched < 0, -1.0, 1.0).to(matrix) if self.signed else 1.0
        # Not `is_constant`, which asks for a feature's own rounding: one that varies by less than
        # the rounding of the others has no say in the assignment.
        level = (10 * m.eps) ** 2
        x, y = m.diagonal(0), m.diagonal(1)
        still = (x[left] <= level * x.max()) | (y[right] <= level * y.max())
        if bool(still.any()):
            warn(
                f"{int(still.sum())} features hardly vary in the pairs, so their places are a "
                "guess. Give pairs in which they vary, if they matter."
            )
        return Solution(matrix, matrix.mT)
