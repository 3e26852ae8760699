"""Chains that are fitted in parts: what of them is kept, and when."""

import pytest
import torch
from torch import Tensor

from relreps import Center, NormalizerChain, StandardScale, UnitNorm, Whiten
from relreps.normalization import Normalizer

D = 4


@pytest.fixture
def x():
    return torch.randn(40, D, dtype=torch.float64) + 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: NormalizerChain(UnitNorm(), StandardScale(D), UnitNorm()),
        lambda: NormalizerChain(Whiten(D), UnitNorm()),
        lambda: NormalizerChain(NormalizerChain(UnitNorm(), Center(D)), UnitNorm()),
    ],
)
def test_a_row_that_does_not_suffice_counts_once(make, x):
    """It is added quietly, as by the part that has the statistics, and not again."""
    chain = make().double()
    for row in x.split(1):
        chain.partial_fit(row)
    torch.testing.assert_close(chain(x), make().double().fit(x)(x))


def test_a_fit_goes_on_in_parts(x):
    chain = NormalizerChain(UnitNorm(), StandardScale(D)).double().fit(x[:20]).partial_fit(x[20:])
    torch.testing.assert_close(
        chain(x), NormalizerChain(UnitNorm(), StandardScale(D)).double().fit(x)(x)
    )


def test_parts_without_statistics_take_any_chunks(x):
    chain = NormalizerChain(UnitNorm(), UnitNorm()).partial_fit(x).fit(x)
    torch.testing.assert_close(chain(x), UnitNorm()(x))


class Remembering(UnitNorm):
    """A normaliser of one's own that has a buffer, and no sums."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(D))

    def remember(self, statistics: tuple[Tensor, ...]) -> Normalizer:
        self.kept.fill_(1)
        return self


def test_every_part_with_a_state_counts(x):
    chain = NormalizerChain(Remembering(), StandardScale(D)).double()
    with pytest.raises(ValueError, match="cannot be fitted in parts"):
        chain.partial_fit(x)
    assert not chain.normalizers[0].kept.any()
    assert chain.fit(x).normalizers[0].kept.all()
