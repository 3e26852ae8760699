"""Divergence of topologies: do two spaces fall apart into the same clusters?"""

from __future__ import annotations

from torch import Tensor

from relreps import topo_loss
from relreps.metrics.paired import paired_rows


def rtd_lite(x: Tensor, y: Tensor, *, quantile: float = 0.9) -> Tensor:
    r"""Divergence of two spaces by their spanning trees, as in `relreps.topo_loss.rtd_lite`.

    That function takes batches of clouds and is the one for a loss; this one is a measure like the
    others of this module: one pair of spaces, and no value for a space that has collapsed, where
    two collapsed ones would be equal. Differentiable. :math:`O(N^2 (D + E))` time,
    :math:`O(N^2)` memory.

    Args:
        x: First encoding.
        y: Second encoding of the same items, in the same order.
        quantile: Which quantile of its distances is the unit of length of a space, in [0, 1].

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, E)`. Output: scalar, 0 or more. NaN with a
          `NumericalWarning` if all rows of a side are the same.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> rtd_lite(x, 5 * x), rtd_lite(x, x**2)
        (tensor(0.), tensor(0.2588))

    References:
        Tulchinskii et al., arXiv:2503.11910.
    """
    pair = paired_rows(x, y)
    return pair.result(topo_loss.rtd_lite(pair.x, pair.y, quantile=quantile))
