"""RTD-Lite: the weights of the trees of two clouds."""

import numpy as np
import pytest
import torch

from relreps import RTDLiteLoss
from relreps.topo_loss import rtd_lite
from tests.topo_loss._clouds import METRICS, close, cloud, matrix, tree


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("quantile", [0.9, 0.5, 0.0, 1.0])
def test_rtd_lite_is_its_formula(metric, quantile):
    x, y = cloud(15, 5), cloud(15, 3)
    above = np.triu_indices(15, 1)
    dx, dy = (d / np.quantile(d[above], quantile) for d in (matrix(x, metric), matrix(y, metric)))
    wanted = (tree(dx)[1] + tree(dy)[1]) / 2 - tree(np.minimum(dx, dy))[1]
    close(rtd_lite(x, y, metric=metric, quantile=quantile), torch.tensor(wanted))


def test_rtd_lite_is_symmetric_positive_and_grows_with_noise():
    x = cloud(30, 5)
    noise = cloud(30, 5)
    values = torch.stack([rtd_lite(x, x + s * noise) for s in (0, 0.02, 0.2, 1.0, 5.0)])
    assert (values.diff() > 0).all()
    close(rtd_lite(x + noise, x), values[3])
    many = rtd_lite(cloud(50, 8, 3), cloud(50, 8, 3))
    assert (many > 0).all()


def test_rtd_lite_where_most_points_coincide():
    x = torch.cat((torch.zeros(30, 2), torch.ones(1, 2)))
    y = cloud(31, 2).float()
    close(rtd_lite(x, y), rtd_lite(1e6 * x, y))


@pytest.mark.parametrize(
    ("options", "name"), [({"quantile": 1.5}, "quantile"), ({"metric": "l3"}, "metric")]
)
def test_bad_options(options, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        RTDLiteLoss(**options)


def test_the_repr_names_the_options():
    assert str(RTDLiteLoss()) == "RTDLiteLoss(metric='l2', quantile=0.9)"
