"""Neighbours across spaces: scores without hubs, and mutual matches."""

import pytest
import torch
from torch.autograd import gradcheck

from relreps._core import blocks
from relreps.correspondence import csls, mutual_nearest
from tests._data import normal

close = torch.testing.assert_close


def test_csls_is_its_definition():
    x, y = normal(7, 4), normal(9, 4)
    cosines = torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=-1)
    rows = cosines.sort(1).values[:, -3:].mean(1)
    columns = cosines.sort(0).values[-3:].mean(0)
    close(csls(x, y, 3), 2 * cosines - rows[:, None] - columns)


def test_csls_ignores_lengths_and_zero_rows_are_finite():
    x, y = normal(7, 4), normal(9, 4)
    close(csls(1e-30 * x, 1e30 * y, 3), csls(x, y, 3))
    x[0] = 0
    assert csls(x, y, 3).isfinite().all()
    assert csls(x.half(), y.half(), 3).dtype == torch.float16


def test_csls_gradient():
    x, y = normal(4, 3).requires_grad_(), normal(5, 3).requires_grad_()
    assert gradcheck(lambda a, b: csls(a, b, 2), (x, y))


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_change_nothing_and_match_the_table_of_scores(chunk, monkeypatch):
    x, y = normal(40, 6), normal(33, 6)
    monkeypatch.setattr(blocks, "rows_of_table", lambda *_: chunk)
    found = mutual_nearest(x, y, 5)
    scores = csls(x, y, 5)
    wanted = {
        (i, int(scores[i].argmax()))
        for i in range(40)
        if int(scores[:, int(scores[i].argmax())].argmax()) == i
    }
    assert set(zip(found.indices_x.tolist(), found.indices_y.tolist(), strict=True)) == wanted
    for i, j, score in zip(*found, strict=True):
        row, column = scores[i].clone(), scores[:, j].clone()
        row[j] = column[i] = -torch.inf
        close(score, scores[i, j] - torch.maximum(row.max(), column.max()))
    assert (found.scores.diff() <= 0).all()


def test_matches_are_one_to_one_also_among_duplicates():
    x = normal(10, 4)[torch.arange(20) % 10]
    found = mutual_nearest(x, x, 2)
    assert len(found.indices_x.unique()) == len(found.indices_x) == 10
    close(x[found.indices_x], x[found.indices_y])


def test_what_cannot_be_matched_is_refused():
    x = normal(8, 3)
    with pytest.raises(ValueError, match="`k` must be at most the number of rows"):
        csls(x, normal(4, 3), 5)
    with pytest.raises(ValueError, match=r"`y` must have shape \(rows, 3\)"):
        mutual_nearest(x, normal(8, 4), 2)
    with pytest.raises(ValueError, match="`x` must be finite"):
        mutual_nearest(x.log(), x, 2)


def test_a_pair_without_rivals_is_infinitely_sure():
    found = mutual_nearest(normal(1, 4), normal(1, 4), 1)
    assert found.scores.tolist() == [torch.inf]
