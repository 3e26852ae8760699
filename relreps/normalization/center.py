"""The mean taken away."""

from __future__ import annotations

from torch import Tensor

from relreps._core import checks
from relreps._core.invariance import ABSORBED, BROKEN, residues
from relreps._core.linalg import at_least_float32
from relreps.moments import RowMoments
from relreps.normalization.base import Affine, AffineNormalizer, Statistics


def center(x: Tensor, mean: Tensor) -> Tensor:
    r"""Subtract a mean, :math:`x - \mu`, in at least float32.

    Shape:
        - x: :math:`(*, D)`; mean: :math:`(D,)`. Output: as ``x``.
    """
    checks.check_floating("mean", mean)
    checks.check_features("x", x, mean.shape[-1])
    checks.check_device(x, mean, ("x", "mean"))
    wide = at_least_float32(x)
    return (wide - mean.to(wide.dtype)).to(x.dtype)


class Center(AffineNormalizer):
    r"""Subtract the mean of the reference rows, :math:`x - \mu`.

    With a cosine after it the code no longer depends on where the space is centred, which decides
    the result on encoders trained elsewhere: their embeddings often share one large mean.

    Args:
        in_features: Number of features D.

    Shape:
        - Input: :math:`(*, D)`. Output: the same.

    Raises:
        RuntimeError: Used before `fit`.

    Example:
        >>> norm = Center(2).fit(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> norm(torch.tensor([[2.0, 3.0]]))
        tensor([[0., 0.]])
    """

    residues = residues(translation=ABSORBED, affine="linear", sample_scale=BROKEN)

    def statistics(self, moments: RowMoments) -> tuple[Tensor, ...]:
        """The mean."""
        return (moments.means[0],)

    def to_affine(self, *statistics: Tensor) -> Affine:
        """A shift."""
        return Affine(statistics[0])

    def refuse(self, moments: RowMoments, name: str = "x") -> None:
        """Nothing: any rows have a mean."""

    def map(self, x: Tensor, statistics: Statistics) -> Tensor:
        """Rows without the mean."""
        return center(x, *statistics)

    def unmap(self, x: Tensor, statistics: Statistics) -> Tensor:
        """Rows with the mean."""
        return center(x, -statistics[0])
