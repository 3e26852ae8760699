"""Pictures of death times: what is drawn, and where."""

import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from relreps import death_times, plots

close = torch.testing.assert_close


@pytest.fixture(autouse=True)
def _nothing_is_saved_or_left_open(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("Agg")
    yield
    plt.close("all")
    assert not list(tmp_path.iterdir())


def deaths(classes=3, n=12):
    return death_times(torch.randn(classes, n, 4))


def groups():
    return {"before": deaths(), "after": 0.5 * deaths()}


DRAW = {
    "barcode": lambda **where: plots.plot_barcode({"a": deaths()[0], "b": deaths()[1]}, **where),
    "histogram": lambda **where: plots.plot_death_times(groups(), **where),
}
both = pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)


@both
def test_one_axes_is_given_back_or_made(draw):
    _, ax = plt.subplots()
    assert draw(ax=ax) is ax
    assert plt.get_fignums() == [1]
    assert draw(title="here").get_title() == "here"
    assert plt.get_fignums() == [1, 2]


@both
def test_it_renders_without_a_warning_and_marks_the_scale(draw):
    ax = draw(scale=1.5)
    ax.figure.canvas.draw()
    assert [line.get_xdata()[0] for line in ax.lines] == [1.5]
    assert ax.get_xlabel() == "death time"
    assert not draw().lines


def test_a_barcode_has_a_bar_from_zero_to_each_death_time():
    d = {"0": torch.tensor([2.0, 1.0, torch.inf]), "1": torch.tensor([3.0]), "2": torch.ones(0)}
    ax = plots.plot_barcode(d)
    segments = [bars.get_segments() for bars in ax.collections]
    assert [[(s[0][0], s[1][0]) for s in group] for group in segments] == [
        [(0, 1), (0, 2)],
        [(0, 3)],
        [],
    ]
    heights = [s[0][1] for group in segments for s in group]
    assert len(set(heights)) == 3
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "1", "2"]
    colours = [to_hex(bars.get_colors()[0]) for bars in ax.collections[:2]]
    assert colours[0] != colours[1]


def test_a_histogram_has_an_outline_a_class_in_the_colour_of_its_group():
    before, after = torch.rand(3, 50), torch.rand(2, 50) / 2
    after[1, 20:] = torch.inf
    ax = plots.plot_death_times({"before": before, "after": after}, bins=8)
    outlines = [patch.get_data() for patch in ax.patches]
    assert len(outlines) == 5
    edges = torch.linspace(0, float(before.max()), 9, dtype=torch.float64)
    for outline, d in zip(outlines, [*before, after[0], after[1, :20]], strict=True):
        close(torch.from_numpy(outline.edges), edges)
        wanted = torch.histogram(d.double(), edges, density=True).hist
        close(torch.from_numpy(outline.values), wanted)
    colours = [to_hex(patch.get_edgecolor()) for patch in ax.patches]
    assert len(set(colours[:3])) == len(set(colours[3:])) == 1
    assert colours[0] != colours[3]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["before", "after"]


def test_nothing_to_draw():
    for plot in (plots.plot_barcode, plots.plot_death_times):
        ax = plot({})
        assert not ax.collections
        assert not ax.patches
    ax = plots.plot_death_times({"none": torch.ones(0), "zero": torch.zeros(3)})
    ax.figure.canvas.draw()
    (outline,) = ax.patches
    assert outline.get_data().values[0] > 0  # all in the first bin
    assert not outline.get_data().values[1:].any()


def test_death_times_with_a_gradient_are_drawn():
    d = deaths()[0].requires_grad_()
    (bars,) = plots.plot_barcode({"a": d}).collections
    close(torch.tensor([s[1][0] for s in bars.get_segments()]), d.detach().double())


@pytest.mark.parametrize("plot", [plots.plot_barcode, plots.plot_death_times])
def test_death_times_without_a_name(plot):
    with pytest.raises(TypeError, match="`deaths` must be death times by name, got Tensor"):
        plot(deaths())


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.plot_barcode({"a": torch.ones(2, 3)}), r"`deaths` must have shape \(m,\)"),
        (lambda: plots.plot_death_times({"a": torch.ones(2, 3, 4)}), r"\(m,\) or \(C, m\)"),
        (lambda: plots.plot_barcode({"a": torch.tensor([-1.0])}), "`deaths` must not be negative"),
        (lambda: plots.plot_death_times({"a": torch.tensor([torch.nan])}), "negative or NaN"),
        (lambda: plots.plot_death_times({}, bins=0), "`bins`"),
        (lambda: plots.plot_barcode({}, scale=-1.0), "`scale`"),
    ],
)
def test_bad_death_times(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
