"""Pictures: what is drawn, where, and that nothing else happens."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from relreps import plots
from relreps.metrics import LayerComparison, recall_at_k, retrieval_ranks
from relreps.stitching import StitchingMatrix
from tests._data import orthogonal

close = torch.testing.assert_close
LAYERS = LayerComparison(torch.rand(2, 3), ["one", "two"], ["a", "b", "c"])
MATRIX = StitchingMatrix(torch.tensor([[0.9, 0.123], [torch.nan, 0.5]]), ["one", "two"], ["a", "b"])


@pytest.fixture(autouse=True)
def _nothing_is_saved_or_left_open(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("Agg")
    yield
    plt.close("all")
    assert not list(tmp_path.iterdir())


def texts(ax):
    return [text.get_text() for text in ax.texts]


def names(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def images(n=3):
    return {"inputs": torch.rand(n, 5, 4), "outputs": torch.rand(n, 5, 4)}


def spaces(widths=(4, 4), n=30):
    return {f"space {i}": torch.randn(n, width) for i, width in enumerate(widths)}


def ranks(n=30):
    return {"good": torch.arange(1.0, n + 1) / 3 + 0.7, "bad": torch.arange(1.0, n + 1)}


DRAW = {
    "matrix": lambda **where: plots.plot_stitching_matrix(MATRIX, **where),
    "images": lambda **where: plots.plot_image_rows(images(), **where),
    "layers": lambda **where: plots.plot_layers(LAYERS, **where),
    "retrieval": lambda **where: plots.plot_retrieval_curve(ranks(), **where),
    "proxy": lambda **where: plots.plot_proxy(torch.rand(9), torch.rand(9), **where),
    "anchors": lambda **where: plots.plot_anchors(
        torch.randn(30, 4), torch.randn(5, 4), torch.arange(30) % 3, **where
    ),
}


@pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)
def test_one_axes_is_given_back_or_made(draw):
    _, ax = plt.subplots()
    assert draw(ax=ax) is ax
    assert plt.get_fignums() == [1]
    assert draw(title="here").get_title() == "here"
    assert plt.get_fignums() == [1, 2]


@pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)
def test_it_renders_without_a_warning(draw):
    draw().figure.canvas.draw()


def test_matrix_writes_every_cell_and_name():
    ax = plots.plot_stitching_matrix(MATRIX)
    assert texts(ax) == ["0.90", "0.12", "n/a", "0.50"]
    assert texts(plots.plot_stitching_matrix(MATRIX, digits=1))[1] == "0.1"
    assert names(ax.yaxis) == ["one", "two"]
    assert names(ax.xaxis) == ["a", "b"]
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("encoder", "decoder")


def test_matrix_colours_span_the_scores_or_the_limits():
    assert plots.plot_stitching_matrix(MATRIX).images[0].get_clim() == pytest.approx((0.123, 0.9))
    assert plots.plot_stitching_matrix(MATRIX, limits=(0, 1)).images[0].get_clim() == (0, 1)


@pytest.mark.parametrize("score", [torch.nan, 0.5])
def test_matrix_without_contrast(score):
    ax = plots.plot_stitching_matrix(StitchingMatrix(torch.tensor([[score]]), ["one"], ["a"]))
    ax.figure.canvas.draw()
    assert texts(ax) == ["n/a" if score != score else "0.50"]


def test_layers_start_at_the_lower_left():
    ax = plots.plot_layers(LAYERS)
    assert ax.get_ylim() == (-0.5, 1.5)
    assert len(texts(ax)) == 6
    assert names(ax.yaxis) == ["one", "two"]
    assert names(ax.xaxis) == ["a", "b", "c"]
    assert texts(plots.plot_layers(LAYERS, digits=None)) == []
    assert plots.plot_layers(LAYERS, limits=(0, 2)).images[0].get_clim() == (0, 2)


def test_retrieval_curves_are_recall_at_every_k():
    x, y = torch.randn(2, 40, 6)
    found = retrieval_ranks(x + y, y)
    good, chance = plots.plot_retrieval_curve({"one": found}).lines
    for k, share in zip(*good.get_data(), strict=True):
        assert share == pytest.approx(float(recall_at_k(x + y, y, int(k))))
    assert good.get_xdata().tolist() == list(range(1, 41))
    assert chance.get_ydata().tolist() == pytest.approx([k / 40 for k in range(1, 41)])
    good, _ = plots.plot_retrieval_curve({"one": found}, max_k=5).lines
    assert good.get_xdata().tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda r: {}, {}, "`ranks` must name at least one set"),
        (lambda r: {**r, "more": torch.ones(3)}, {}, "all over as many keys, .*'more': 3"),
        (lambda r: {"x": r["bad"] / 0}, {}, "`ranks` must be finite"),
        (lambda r: {"x": torch.ones(3, 3)}, {}, r"one rank a query, .* got \(3, 3\) in 'x'"),
        (lambda r: {"x": torch.ones(0)}, {}, r"one rank a query, .* got \(0,\) in 'x'"),
        (lambda r: r, {"max_k": 31}, "`max_k` must be at most the number of keys, 30, got 31"),
        (lambda r: r, {"max_k": 0}, "`max_k` must be at least 1"),
    ],
)
def test_bad_ranks(change, options, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_retrieval_curve(change(ranks()), **options)


def test_proxy_writes_the_correlation():
    x = torch.rand(9)
    y = x + torch.rand(9)
    ax = plots.plot_proxy(x, y, torch.arange(9) % 2)
    close(points(ax), torch.stack((x, y), 1).double())
    assert texts(ax) == [f"r = {np.corrcoef(x, y)[0, 1]:.3f}, n = 9"]
    assert texts(plots.plot_proxy(torch.ones(9), y)) == ["r = n/a, n = 9"]
    rounded = torch.full((9,), 0.1)
    rounded[0] += 1e-8
    assert texts(plots.plot_proxy(rounded, y)) == ["r = n/a, n = 9"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.rand(9), torch.rand(8)), "`similarity` and `accuracy` must be paired"),
        ((torch.rand(9, 1), torch.rand(9)), r"`similarity` must have one number .* got \(9, 1\)"),
        ((torch.rand(9), torch.rand(1)), r"`accuracy` must have one number .* at least two"),
        ((torch.rand(9), torch.rand(9) / 0), "`accuracy` must be finite"),
        ((torch.rand(9), torch.rand(9), torch.arange(3)), "`labels` must have one entry"),
    ],
)
def test_bad_proxies(arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_proxy(*arguments)


def test_text_stands_out_from_its_cell():
    ax = plots.plot_stitching_matrix(MATRIX, cmap="gray")
    assert [text.get_color() for text in ax.texts] == ["black", "white", "black", "white"]


def test_image_rows_lie_under_each_other_in_order():
    rows = images()
    rows["inputs"][0, 0, 0] = 1
    ax = plots.plot_image_rows(rows, gap=1)
    canvas = torch.as_tensor(ax.images[0].get_array())
    assert canvas.shape == (5 + 1 + 5, 4 + 1 + 4 + 1 + 4)
    close(canvas[:5, 5:9], rows["inputs"][1])
    close(canvas[6:, 10:], rows["outputs"][2])
    assert (canvas[5] == 1).all()
    assert canvas[0, 0] == 1
    assert names(ax.yaxis) == ["inputs", "outputs"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"more": torch.rand(4, 5, 4)}, ValueError, r"one shape \(n, height, width\), got .*more"),
        ({"inputs": torch.rand(5, 4)}, ValueError, r"one shape \(n, height, width\)"),
        ({"outputs": torch.ones(3, 5, 4).byte()}, TypeError, "`rows` must be a floating-point"),
        ({"outputs": 2 * torch.ones(3, 5, 4)}, ValueError, r"in \[0, 1\], got 2 to 2 in 'outputs'"),
        ({"outputs": torch.ones(3, 5, 4) / 0}, ValueError, r"in \[0, 1\], got inf"),
    ],
    ids=["number", "axes", "bytes", "range", "infinite"],
)
def test_bad_images(change, error, message):
    with pytest.raises(error, match=message):
        plots.plot_image_rows({**images(), **change})
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.plot_layers(torch.rand(2, 2)), "`comparison` must be a LayerComparison"),
        (lambda: plots.plot_stitching_matrix(3), "`matrix` must be a StitchingMatrix, got int"),
        (lambda: plots.plot_image_rows([]), "`rows` must be a Mapping, got list"),
        (lambda: plots.plot_spaces([]), "`spaces` must be a Mapping, got list"),
        (lambda: plots.plot_retrieval_curve(torch.ones(3)), "`ranks` must be a Mapping, got Ten"),
    ],
)
def test_wrong_types_open_no_figure(draw, message):
    with pytest.raises(TypeError, match=message):
        draw()
    assert not plt.get_fignums()


def test_an_array_of_axes_is_no_axes():
    _, grid = plt.subplots(2, 2)
    with pytest.raises(TypeError, match="`ax` must be matplotlib Axes, got ndarray"):
        plots.plot_layers(LAYERS, grid)
    with pytest.raises(TypeError, match="`axes` must be matplotlib Axes, got ndarray"):
        plots.plot_spaces(spaces(), None, grid)


def test_limits_go_up():
    with pytest.raises(ValueError, match=r"`limits` must be the lower .* got \(1, 0\)"):
        plots.plot_layers(LAYERS, limits=(1, 0))
    with pytest.raises(ValueError, match="`rows` must hold at least one image"):
        plots.plot_image_rows({"a": torch.rand(0, 3, 3)})
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    ("draw", "kind"),
    [(plots.plot_layers, LayerComparison), (plots.plot_stitching_matrix, StitchingMatrix)],
)
@pytest.mark.parametrize("shape", [(0, 2), (2, 0)])
def test_a_table_without_cells_opens_no_figure(draw, kind, shape):
    table = kind(torch.zeros(shape), ["a"] * shape[0], ["b"] * shape[1])
    with pytest.raises(ValueError, match="`scores` must have at least one row and one column"):
        draw(table)
    assert not plt.get_fignums()


def test_no_images():
    with pytest.raises(ValueError, match="`rows` must hold images"):
        plots.plot_image_rows({})


def points(ax):
    return torch.as_tensor(ax.collections[0].get_offsets().filled())


@pytest.mark.parametrize("labelled", [False, True])
def test_spaces_are_drawn_side_by_side(labelled):
    labels = torch.arange(30) % 3 if labelled else None
    _, grid = plt.subplots(1, 2)
    axes = plots.plot_spaces(spaces((4, 7)), labels, grid)
    assert axes == list(grid)
    assert [ax.get_title() for ax in axes] == ["space 0", "space 1"]
    assert all(points(ax).shape == (30, 2) for ax in axes)
    if labelled:
        assert axes[0].collections[0].get_array().tolist() == labels.tolist()
    axes[0].figure.canvas.draw()
    assert len(plots.plot_spaces(spaces())) == 2
    assert plt.get_fignums() == [1, 2]


def test_each_plane_holds_the_most_variance():
    x = torch.randn(30, 4) * torch.tensor([1.0, 3.0, 0.1, 2.0]) + 5
    (ax,) = plots.plot_spaces({"x": x})
    singular = torch.linalg.svdvals((x - x.mean(0)).double())[:2]
    close(points(ax).norm(dim=0), singular, rtol=1e-4, atol=0)


def test_first_basis_shows_whether_coordinates_are_shared():
    x = torch.randn(30, 4)
    turned = x @ orthogonal(4, dtype=torch.float32)
    by_basis = {
        basis: [points(ax) for ax in plots.plot_spaces({"a": x, "b": turned}, basis=basis)]
        for basis in ("each", "first")
    }
    close(by_basis["each"][0].abs(), by_basis["each"][1].abs(), atol=1e-4, rtol=0)
    close(by_basis["first"][0], by_basis["each"][0])
    assert (by_basis["first"][1].abs() - by_basis["first"][0].abs()).abs().max() > 0.1


def test_joint_basis_is_that_of_all_rows_together():
    x, y = torch.randn(30, 4), torch.randn(20, 4) * torch.tensor([1.0, 1.0, 9.0, 5.0])
    drawn = [points(ax) for ax in plots.plot_spaces({"x": x, "y": y}, basis="joint")]
    (alone,) = plots.plot_spaces({"both": torch.cat((x, y))})
    close(torch.cat(drawn), points(alone))


@pytest.mark.parametrize("n", [2, 30])
def test_a_space_of_one_feature_is_a_line(n):
    (ax,) = plots.plot_spaces({"line": torch.randn(n, 1)})
    assert (points(ax)[:, 1] == 0).all()
    ax.figure.canvas.draw()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((spaces(), torch.zeros(29).long()), {}, "`labels` must have one entry .* 30 rows"),
        ((spaces((4, 5)),), {"basis": "first"}, "needs spaces of one width, got 4 and 5.*space 1"),
        ((spaces((4, 5)),), {"basis": "joint"}, "needs spaces of one width, got 4 and 5"),
        ((spaces(),), {"basis": "second"}, "`basis` must be one of 'each', 'first', 'joint'"),
        ((spaces(), None, [None]), {}, "`axes` must be one for each of the 2 spaces, got 1"),
        ((spaces(n=1),), {}, r"`spaces` must have at least 2 row"),
        (({"x": torch.full((3, 3), torch.nan)},), {}, "`spaces` must be finite"),
        (({},), {}, "`spaces` must name at least one space"),
    ],
    ids=["labels", "widths", "joint", "basis", "axes", "one-row", "nan", "none"],
)
def test_bad_spaces(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_spaces(*arguments, **options)


def test_anchors_lie_in_the_plane_of_the_samples():
    x = torch.randn(30, 4)
    picks = torch.tensor([4, 7])
    ax = plots.plot_anchors(x, x[picks])
    drawn, marked = (torch.as_tensor(c.get_offsets().filled()) for c in ax.collections)
    close(marked, drawn[picks])
    (alone,) = plots.plot_spaces({"x": x})
    close(drawn, points(alone))
    ax.figure.canvas.draw()


@pytest.mark.parametrize(
    ("x", "anchors", "labels", "message"),
    [
        (torch.ones(1, 4), torch.ones(2, 4), None, r"`x` must have at least 2 row"),
        (torch.ones(3, 4), torch.ones(2, 3), None, r"`anchors` must have shape \(rows, 4\)"),
        (torch.ones(3, 4), torch.ones(2, 4) / 0, None, "`anchors` must be finite"),
        (torch.ones(3, 4) / 0, torch.ones(2, 4), None, "`x` must be finite"),
        (torch.ones(3, 4), torch.ones(2, 4), torch.ones(2).long(), "`labels` .* each of the 3"),
    ],
)
def test_bad_anchors(x, anchors, labels, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_anchors(x, anchors, labels)


GALLERY = Path(__file__).parents[2] / "docs" / "gallery.md"


@pytest.mark.skipif(not GALLERY.exists(), reason="the documentation is not in this copy")
@pytest.mark.parametrize("name", plots.__all__)
def test_every_plot_is_in_the_gallery(name):
    assert f"`{name}`" in GALLERY.read_text()
    assert f"plots.{name}(" in GALLERY.with_suffix(".py").read_text()
