"""Stitching: every encoder with every head, what is called, and in which mode."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from relreps import (
    ProcrustesTranslator,
    RelativeEncoder,
    RelativeProjection,
    StitchedModel,
    stitching_matrix,
)
from relreps.stitching import StitchingMatrix
from tests._data import orthogonal

close = torch.testing.assert_close
D, H, C = 6, 4, 3


class Spy(nn.Linear):
    """A linear layer before dropout that counts its calls and notes the mode it ran in."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.dropout = nn.Dropout()
        self.calls = []

    def forward(self, x):
        self.calls.append(self.training or self.dropout.training)
        return self.dropout(super().forward(x))


def mean(output):
    return output.detach().mean()


def grid_of(**options):
    """Two encoders of one size and one of another, with a head for each."""
    encoders = {"a": Spy(D, H), "b": Spy(D, H), "c": Spy(D, H + 1)}
    decoders = {"a": Spy(H, C), "b": Spy(H, C), "c": Spy(H + 1, C)}
    inputs = torch.randn(10, D)
    return encoders, decoders, inputs, stitching_matrix(encoders, decoders, inputs, mean, **options)


def test_stitched_model_is_encoder_translator_decoder():
    encoder, decoder, translator = nn.Linear(D, H), nn.Linear(2, C), nn.Linear(H, 2)
    x = torch.randn(5, D)
    model = StitchedModel(encoder, decoder, translator)
    close(model(x), decoder(translator(encoder(x))))
    direct = StitchedModel(encoder, nn.Identity())
    close(direct(x), encoder(x))
    assert len(list(model.parameters())) == 6
    assert len(list(direct.parameters())) == 2


def test_every_cell_is_the_score_of_its_pair_and_nan_where_sizes_do_not_fit():
    encoders, decoders, inputs, grid = grid_of()
    assert grid.encoders == grid.decoders == ["a", "b", "c"]
    assert grid.scores.isnan().tolist() == [[False, False, True]] * 2 + [[True, True, False]]
    for i, e in enumerate(encoders.values()):
        for j, d in enumerate(decoders.values()):
            if not grid.scores[i, j].isnan():
                assert grid.scores[i, j] == mean(StitchedModel(e, d).eval()(inputs))


def test_an_encoder_is_called_once_and_a_decoder_once_a_pair_all_in_eval_mode():
    encoders, decoders, _, _ = grid_of()
    assert [e.calls for e in encoders.values()] == [[False]] * 3
    assert [len(d.calls) for d in decoders.values()] == [2, 2, 1]
    assert not any(any(d.calls) for d in decoders.values())


def test_translators_join_what_does_not_fit():
    translators = {("a", "c"): Spy(H, H + 1), ("a", "a"): Spy(H, H)}
    encoders, decoders, inputs, grid = grid_of(translators=translators)
    assert grid.scores[0].isfinite().all()
    for j, target in enumerate(("a", "c")):
        model = StitchedModel(encoders["a"], decoders[target], translators["a", target]).eval()
        assert grid.scores[0, 2 * j] == mean(model(inputs))
    assert [t.calls[0] for t in translators.values()] == [False, False]


def modes(*modules):
    return [child.training for module in modules for child in module.modules()]


@pytest.mark.parametrize("fails", [False, True])
def test_every_submodule_gets_its_own_mode_back(fails):
    encoder, decoder, translator = Spy(D, H), Spy(H, C), Spy(H, H)
    encoder.dropout.eval()
    decoder.eval()
    before = modes(encoder, decoder, translator)

    def score(output):
        return 1 / (not fails)

    with pytest.raises(ZeroDivisionError) if fails else nullcontext():
        stitching_matrix(
            {"e": encoder}, {"d": decoder}, torch.ones(2, D), score, {("e", "d"): translator}
        )
    assert modes(encoder, decoder, translator) == before
    assert set(before) == {True, False}


def test_sizes_are_known_from_the_encoder_of_the_same_name():
    """A decoder that declares no size takes the latents of its own encoder."""
    encoders = {"flat": nn.Flatten(), "image": nn.Identity()}
    decoders = {"flat": nn.Sequential(nn.Linear(16, 1)), "image": nn.Sequential(nn.Flatten())}
    grid = stitching_matrix(encoders, decoders, torch.randn(2, 1, 4, 4), mean)
    assert grid.scores.isnan().tolist() == [[False, True], [True, False]]


def test_an_error_of_a_decoder_of_unknown_size_is_raised():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        stitching_matrix(
            {"a": nn.Linear(D, H)}, {"z": nn.Sequential(nn.Linear(9, 1))}, torch.ones(2, D), mean
        )


def test_no_graph_is_kept():
    def score(output):
        assert not output.requires_grad
        return 0.0

    assert stitching_matrix({"a": nn.Linear(D, H)}, {"a": Spy(H, C)}, torch.ones(2, D), score)


def turned_pair():
    """An encoder, the same one with its latents rotated, and the inputs of both."""
    encoder = nn.Linear(D, H, dtype=torch.float64)
    q = orthogonal(H)
    turned = nn.Linear(D, H, dtype=torch.float64)
    turned.load_state_dict({"weight": q @ encoder.weight, "bias": q @ encoder.bias})
    return encoder, turned, torch.randn(50, D, dtype=torch.float64)


@pytest.mark.parametrize("way", ["absolute", "relative", "translated"])
def test_a_head_serves_a_rotated_encoder_when_both_are_relative_or_translated(way):
    encoder, turned, x = turned_pair()
    translators = {}
    if way == "relative":
        encoder, turned = (
            RelativeEncoder(e, RelativeProjection(H, 9).double(), x[:9]) for e in (encoder, turned)
        )
    elif way == "translated":
        t = ProcrustesTranslator(H, H).double().fit(turned(x).detach(), encoder(x).detach())
        translators = {("turned", "own"): t}
    head = nn.Linear(9 if way == "relative" else H, C, dtype=torch.float64)
    target = head(encoder.eval()(x)).detach()

    def error(output):
        return (output - target).abs().max()

    grid = stitching_matrix(
        {"own": encoder, "turned": turned}, {"own": head}, x, error, translators
    )
    assert grid.scores[0] < 1e-12
    assert (grid.scores[1] < 1e-12) == (way != "absolute")


def test_a_matrix_is_a_table_of_scores():
    grid = StitchingMatrix(scores=torch.rand(1, 2), encoders=["e"], decoders=["one", "two"])
    assert grid.table[1:] == (grid.encoders, grid.decoders) == (["e"], ["one", "two"])
    assert grid._asdict().keys() == {"scores", "encoders", "decoders"}
    scores, encoders, decoders = copy.deepcopy(grid)
    close(scores, grid.scores)
    assert (encoders, decoders) == (["e"], ["one", "two"])


def test_markdown():
    scores = torch.tensor([[0.98765, torch.nan], [0.1, -12.5]])
    grid = StitchingMatrix(scores, ["one", "two|2"], ["a", "longer name"])
    assert grid.to_markdown(2).splitlines() == [
        r"| encoder \ decoder |    a | longer name |",
        "| ----------------- | ---: | ----------: |",
        "| one               | 0.99 |         n/a |",
        r"| two\|2            | 0.10 |      -12.50 |",
    ]
    assert "| 0.988 |" in grid.to_markdown()


@pytest.mark.parametrize(
    ("encoders", "decoders", "translators", "message"),
    [
        ({}, {"a": Spy(H, C)}, None, "`encoders` and `decoders` must each name at least one"),
        ({"a": Spy(D, H)}, {}, None, "`encoders` and `decoders` must each name at least one"),
        (
            {"a": Spy(D, H)},
            {"b": Spy(H, C)},
            {("b", "a"): nn.Identity()},
            r"`translators` has the key \('b', 'a'\).*Encoders: \['a'\]; decoders: \['b'\]",
        ),
    ],
    ids=["no-encoders", "no-decoders", "unknown-pair"],
)
def test_bad_names(encoders, decoders, translators, message):
    with pytest.raises(ValueError, match=message):
        stitching_matrix(encoders, decoders, torch.ones(2, D), mean, translators)
    assert all(not encoder.calls for encoder in encoders.values())
