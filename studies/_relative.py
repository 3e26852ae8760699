"""Codes of two spaces relative to the same anchors, and items to compare them on."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

import relreps

NEIGHBOURS = 10
MEASURES = ("mrr_xy", "mrr_yx", "jaccard_xy", "jaccard_yx")

Codes = tuple[Tensor, Tensor]


class Pairs(NamedTuple):
    """Both encodings of the test items and of the anchors, row by row."""

    x: Tensor
    y: Tensor
    anchors_x: Tensor
    anchors_y: Tensor


def relative(
    pairs: Pairs,
    make_pre: Callable[[int], nn.Module] | None = None,
    similarity: str = "cosine",
    layer_norm: bool = False,
) -> Codes:
    """Similarities to the anchors; with ``layer_norm`` the code is standardised, row by row."""

    def code(rows: Tensor, anchors: Tensor) -> Tensor:
        pre = None if make_pre is None else make_pre(rows.shape[1])
        post = nn.LayerNorm(len(anchors), elementwise_affine=False) if layer_norm else None
        return relreps.RelativeProjection.from_anchors(anchors, similarity, pre=pre, post=post)(
            rows
        )

    return code(pairs.x, pairs.anchors_x), code(pairs.y, pairs.anchors_y)


def measures(titles: tuple[str, str]) -> list[str]:
    """Headings of `MEASURES` between two spaces."""
    there, back = (" → ".join(pair) for pair in (titles, titles[::-1]))
    return [f"{name} {way}" for name in ("MRR", f"Jaccard@{NEIGHBOURS}") for way in (there, back)]
