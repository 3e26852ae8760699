"""Anchors that are means of samples: of classes, or of clusters."""

from __future__ import annotations

from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import as_float64, full_precision

_STEP = 1 << 15


def prototypes(x: Tensor, labels: Tensor, num_classes: int | None = None) -> Tensor:
    r"""The mean of the samples of each class, as anchors.

    .. math:: A_c = \frac{1}{n_c} \sum_{i : y_i = c} x_i

    Labels belong to the samples, so the same labels give anchors that are parallel in every space,
    and an affine map of the space maps its prototypes along: ``prototypes(x @ m + t, labels)`` is
    ``prototypes(x, labels) @ m + t``. Averaging M samples divides the noise of an anchor by
    :math:`\sqrt M`. Without classes, `cluster_labels` of one of the spaces will do.
    Differentiable. O(ND) time; sums are in float64.

    Args:
        x: Samples.
        labels: Class of each sample, in [0, C).
        num_classes: Number of classes C; one more than the largest label if not given.

    Shape:
        - x: :math:`(N, D)`. labels: :math:`(N,)`. Output: :math:`(C, D)`.

    Raises:
        ValueError: If a class has no sample: the rows of two spaces would not be parallel.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
        >>> prototypes(x, torch.tensor([0, 0, 1]))
        tensor([[2., 0.],
                [0., 2.]])

    References:
        Prototypes as the reference points of relative codes in semantic channel equalisation,
        arXiv:2411.19719.
    """
    checks.check_rows("x", x)
    checks.check_finite("x", x)
    checks.check_labels(labels, x.shape[0])
    if num_classes is not None:
        checks.check_size("num_classes", num_classes)
    labels = labels.long()
    counts = _counts(labels, num_classes)
    total = as_float64(x[:0]).new_zeros(len(counts), x.shape[1])
    with full_precision(x):
        for rows, members in zip(x.split(_STEP), labels.split(_STEP), strict=True):
            total = total.index_add(0, members.to(total.device), as_float64(rows))
        return (total / counts.to(total.device)[:, None]).to(x)


def _counts(labels: Tensor, num_classes: int | None) -> Tensor:
    """Samples of each class; every class must have one."""
    low, high = (int(end) for end in labels.aminmax())
    classes = high + 1 if num_classes is None else num_classes
    if low < 0 or high >= classes:
        raise ValueError(
            f"`labels` must lie in [0, {classes}), got {low} to {high}. Number the classes from 0."
        )
    # Not by counting up to the largest label, which may be far more than there are samples.
    counts: Tensor
    present, counts = labels.unique(return_counts=True)
    empty = classes - len(present)
    if empty:
        named = set(present.tolist())
        absent = [c for c in range(min(classes, len(named) + 5)) if c not in named][:5]
        listed = ", ".join(map(str, absent)) + (", ..." if empty > 5 else "")
        raise ValueError(
            f"`labels` must name every class in [0, {classes}), got no sample of {empty} "
            f"class(es): {listed}. Renumber the classes, or add samples of these."
        )
    return counts
