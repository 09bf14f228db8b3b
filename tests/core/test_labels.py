"""Labels as people have them: sequences, masks, missing, soft and weighted ones, and shapes that do not fit."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from helpers import SEEDS, trees, weights_for
from hypothesis import given
from torch import nn
from torch.nn import functional

import evomal_core as em
from evomal_core.labels import balanced, read_labels

KINDS = ["regression", "binary", "multiclass"]
SHAPES = [(5,), (5, 1), (5, 3), (5, 4, 1), (5, 4, 3), (5, 1, 4, 2), (5, 3, 4, 2)]
NAN = float("nan")


def exported(loss: em.Loss):
    """The function that a loss is exported as."""
    space: dict[str, object] = {}
    exec(loss.python_source("f"), space)
    return space["f"]


def losses(kind: str) -> dict[str, object]:
    """A loss of each class, and the exported functions."""
    learned = em.LearnedLoss("mul(add(y, 1), sub(abs(sub(f, y)), log(f)))", kind)
    taylor = em.TaylorLoss(kind, theta=[0.3, -0.2, 0.5, 1.0, -0.4, 0.2, 0.1, 0.6])
    return {
        "learned": learned,
        "task": em.TaskLoss(kind),
        "neural": em.NeuralLoss(kind, hidden=4),
        "taylor": taylor,
        "exported": exported(learned),
        "exported polynomial": exported(taylor),
    }


NAMES = list(losses("regression"))


def labels_like(y_pred: torch.Tensor, kind: str) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    if kind == "multiclass":
        return torch.randint(0, y_pred.shape[1], (len(y_pred), *y_pred.shape[2:]), generator=rng)
    y_true = torch.randn(y_pred.shape, generator=rng, dtype=torch.float64)
    return (y_true > 0).double() if kind == "binary" else y_true


def batch(kind: str, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    y_pred = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return y_pred, labels_like(y_pred, kind)


# ---- shapes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["regression", "binary"])
def test_a_loss_is_the_mean_over_rows_and_positions_of_the_sum_over_outputs(kind, shape, name):
    loss, (y_pred, y_true) = losses(kind)[name], batch(kind, shape)
    outputs = 1 if len(shape) == 1 else shape[2] if len(shape) == 3 else shape[1]
    one_by_one = [
        loss(f.reshape(1, 1), y.reshape(1, 1)) for f, y in zip(y_pred.flatten(), y_true.flatten(), strict=True)
    ]
    torch.testing.assert_close(loss(y_pred, y_true), torch.stack(one_by_one).mean() * outputs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(5, 3, 4), (5, 3, 4, 2)])
def test_each_position_of_a_sequence_or_image_is_classified_as_a_row(shape, name):
    loss, (logits, labels) = losses("multiclass")[name], batch("multiclass", shape)
    torch.testing.assert_close(
        loss(logits, labels), loss(logits.movedim(1, -1).reshape(-1, shape[1]), labels.flatten())
    )


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4), (6, 3, 4, 2)])
def test_the_task_loss_of_classes_is_pytorchs(shape):
    logits, labels = batch("multiclass", shape)
    chances = torch.softmax(torch.randn_like(logits), dim=1)
    weights = torch.tensor([0.2, 3.0, 1.0], dtype=torch.float64)
    labels.view(-1)[::3] = -100
    torch.testing.assert_close(em.TaskLoss("multiclass")(logits, labels), functional.cross_entropy(logits, labels))
    torch.testing.assert_close(
        em.TaskLoss("multiclass")(logits, chances), functional.cross_entropy(logits, chances)
    )
    torch.testing.assert_close(
        em.TaskLoss("multiclass", class_weight=weights)(logits, labels),
        functional.cross_entropy(logits, labels, weight=weights),
    )
    torch.testing.assert_close(
        em.TaskLoss("multiclass", reduction="none")(logits, labels),
        functional.cross_entropy(logits, labels, reduction="none"),
    )
    torch.testing.assert_close(
        em.TaskLoss("multiclass", reduction="sum", ignore_index=2)(logits, labels.clamp(min=0)),
        functional.cross_entropy(logits, labels.clamp(min=0), reduction="sum", ignore_index=2),
    )


def test_logits_of_minus_infinity_keep_the_task_loss_finite_as_in_pytorch():
    logits = torch.tensor([[1.0, -math.inf, 2.0]], requires_grad=True)
    value = em.TaskLoss("multiclass")(logits, torch.tensor([0]))
    assert value.item() == pytest.approx(functional.cross_entropy(logits, torch.tensor([0])).item())
    value.backward()
    assert torch.isfinite(logits.grad).all()


MISFITS = {
    "regression": [
        ((6, 1), (6,)), ((6,), (6, 1)), ((6, 3), (1, 3)), ((6, 3), (6, 1)), ((4, 1), (3, 1)), ((1,), ()),
        ((6, 4, 1), (6, 4)), ((6, 2), (6, 2, 1)),
    ],
    "multiclass": [
        ((1, 3), (6,)), ((6, 3), (1,)), ((4, 3), (3,)), ((6, 3), (6, 1)), ((6, 3), (6, 3)), ((3,), ()),
        ((6, 4, 3), (6, 4)), ((6, 3, 4), (6,)), ((6, 3), (6, 4)),
    ],
}  # fmt: skip
MISFITS["binary"] = MISFITS["regression"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_shapes_that_do_not_fit_are_refused_with_both_named(kind, name):
    loss = losses(kind)[name]
    for pred, true in MISFITS[kind]:
        dtype = torch.long if kind == "multiclass" else torch.float32
        both = f"{re.escape(str(pred))}.*{re.escape(str(true))}"
        with pytest.raises(ValueError, match=both):
            loss(torch.zeros(pred), torch.zeros(true, dtype=dtype))


@pytest.mark.parametrize(
    ("pred", "true", "remedy"),
    [
        (torch.zeros(6, 1), torch.zeros(6), "y_true.unsqueeze(1)"),
        (torch.zeros(6, 4, 1), torch.zeros(6, 4), "y_true.unsqueeze(2)"),
        (torch.zeros(6, 4, 4), torch.zeros(6, 1, 4, 4), "y_pred.unsqueeze(1)"),
        (torch.zeros(6, 2), torch.zeros(2, 6), "reshape_as"),
        (torch.zeros(6, 1), torch.zeros(5, 1), "never repeated"),
    ],
)
def test_the_remedy_for_shapes_of_numbers_fits_them(pred, true, remedy):
    with pytest.raises(ValueError, match=r"different shapes") as error:
        em.TaskLoss()(pred, true)
    assert remedy in str(error.value)


@pytest.mark.parametrize(
    ("pred", "true", "remedy"),
    [
        (torch.zeros(6, 4, 3), torch.zeros(6, 4).long(), "y_pred.movedim(-1, 1)"),
        (torch.zeros(3), torch.tensor(1), "y_pred.unsqueeze(0)"),
        (torch.zeros(6, 3), torch.zeros(6, 3).long(), "y_true.argmax(dim=1); rows with several ones"),
        (torch.zeros(6, 3), torch.zeros(6, 1).long(), "y_true.squeeze(1)"),
        (torch.zeros(6, 3), torch.zeros(6), "y_true.long()"),
        (torch.zeros(6, 2), torch.ones(6, dtype=torch.bool), "y_true.long()"),
    ],
)
def test_the_remedy_for_shapes_of_classes_fits_them(pred, true, remedy):
    with pytest.raises(ValueError, match="multiclass") as error:
        em.TaskLoss("multiclass")(pred, true)
    assert remedy in str(error.value)


@pytest.mark.parametrize(
    ("pred", "true", "said"),
    [
        (
            torch.zeros(6, 1),
            np.zeros((6, 1)),
            r"y_true is a tensor, got a ndarray; write torch.as_tensor\(y_true\)",
        ),
        ([0.0], torch.zeros(1), "y_pred is a tensor, or a model's output with logits; got a list"),
        (torch.zeros(6, 1), torch.zeros(6, 1).cfloat(), r"y_true holds real numbers, got torch\.complex64"),
    ],
)
def test_what_is_no_tensor_of_real_numbers_is_one_clear_line(pred, true, said):
    with pytest.raises(ValueError, match=said):
        em.TaskLoss()(pred, true)


@pytest.mark.parametrize("index", [3, -1])
def test_a_class_index_out_of_range_is_named(index):
    with pytest.raises(
        ValueError, match=rf"class index {index} is none of the 3 classes, 0 to 2.*ignore_index=-100"
    ):
        em.TaskLoss("multiclass")(torch.zeros(2, 3), torch.tensor([0, index]))


# ---- labels that are left out ------------------------------------------------------------------------


def without(y_true: torch.Tensor, kind: str, mark: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels with every second one marked as missing, and which ones stay."""
    keep = torch.arange(y_true.numel()).reshape(y_true.shape) % 2 == 0
    return torch.where(keep, y_true, torch.tensor(mark, dtype=y_true.dtype)), keep


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("kind", "shape", "mark"),
    [
        ("regression", (6,), NAN), ("regression", (6, 1), NAN), ("regression", (6, 4, 1), NAN),
        ("binary", (6, 1), -100), ("binary", (6, 1, 4, 2), NAN), ("multiclass", (6, 3), -100),
        ("multiclass", (6, 3, 4, 2), -100),
    ],
)  # fmt: skip
def test_missing_labels_are_as_if_their_rows_were_not_there(kind, shape, mark, name):
    loss, (y_pred, y_true) = losses(kind)[name], batch(kind, shape)
    marked, keep = without(y_true, kind, mark)
    rows = y_pred.movedim(1, -1)[keep] if kind == "multiclass" else y_pred[keep]
    y_pred = y_pred.clone().requires_grad_()
    value = loss(y_pred, marked)
    torch.testing.assert_close(value, loss(rows, y_true[keep]))
    value.backward()
    gradient = y_pred.grad.movedim(1, -1) if kind == "multiclass" else y_pred.grad
    assert (gradient[~keep] == 0).all()
    assert (gradient[keep] != 0).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_whatever_is_predicted_for_a_missing_label_has_no_effect(kind, name):
    loss, (y_pred, y_true) = losses(kind)[name], batch(kind, (6, 3))
    marked, _ = without(y_true, kind, -100 if kind == "multiclass" else NAN)
    rows = torch.zeros(6, 3, dtype=torch.bool)
    rows[1] = True
    if kind != "multiclass":
        marked[1] = NAN
    spoiled = torch.where(rows, math.inf, y_pred).requires_grad_()
    value = loss(spoiled, marked)
    assert value.item() == loss(y_pred, marked).item()
    value.backward()
    assert torch.isfinite(spoiled.grad).all()


def test_a_row_with_some_outputs_missing_counts_with_the_others():
    loss = em.LearnedLoss("square(sub(f, y))")
    y_pred, y_true = torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([[0.0, NAN], [1.0, 1.0]])
    assert loss(y_pred, y_true).item() == pytest.approx((1 + 4 + 16) / 2)


def test_a_row_of_probabilities_with_a_missing_one_is_left_out():
    logits, chances = torch.randn(2, 3), torch.tensor([[0.2, 0.8, 0.0], [NAN, 0.5, 0.5]])
    torch.testing.assert_close(
        em.TaskLoss("multiclass")(logits, chances), functional.cross_entropy(logits[:1], chances[:1])
    )


@pytest.mark.parametrize("kind", KINDS)
def test_soft_labels_have_the_mean_over_classes_of_the_cross_entropy(kind):
    if kind == "regression":
        with pytest.raises(ValueError, match="class_weight is for classification"):
            em.TaskLoss(kind, class_weight="balanced")
        return
    logits = torch.randn(6, 3, dtype=torch.float64)
    chances = torch.softmax(torch.randn(6, 3, dtype=torch.float64), 1)
    wanted = (
        functional.cross_entropy(logits, chances)
        if kind == "multiclass"
        else 3 * functional.binary_cross_entropy_with_logits(logits, chances)
    )
    torch.testing.assert_close(em.TaskLoss(kind)(logits, chances), wanted)
    symbolic = next(iter(em.known_losses(kind).values()))
    torch.testing.assert_close(symbolic(logits, chances), wanted, rtol=1e-5, atol=1e-5)


# ---- weights -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(trees(max_leaves=4), SEEDS)
def test_a_whole_weight_is_a_row_that_comes_so_many_times(kind, tree, seed):
    loss = em.LearnedLoss(tree, kind, phi=weights_for(tree, seed).double())
    y_pred, y_true = batch(kind, (6, 3))
    times = torch.tensor([1, 0, 3, 2, 0, 1])
    repeated = loss(y_pred.repeat_interleave(times, 0), y_true.repeat_interleave(times, 0))
    torch.testing.assert_close(loss(y_pred, y_true, weight=times.double()), repeated, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(5, 4, 1), (5, 1, 4, 2), (5, 3, 4, 2)])
def test_weights_are_of_rows_or_positions_or_labels(shape):
    loss, (y_pred, y_true) = em.LearnedLoss("abs(sub(f, y))"), batch("regression", shape)
    each = em.LearnedLoss("abs(sub(f, y))", reduction="none")(y_pred, y_true)
    rows = torch.rand(5, dtype=torch.float64)
    spread = rows.reshape(5, *[1] * (each.ndim - 1)).expand(each.shape)
    torch.testing.assert_close(loss(y_pred, y_true, rows), (spread * each).sum() / spread.sum())
    places = torch.rand(each.shape, dtype=torch.float64)
    torch.testing.assert_close(loss(y_pred, y_true, places), (places * each).sum() / places.sum())
    torch.testing.assert_close(loss(y_pred, y_true, torch.ones(shape)), loss(y_pred, y_true))
    with pytest.raises(ValueError, match=r"weight has shape \(7,\); give one number a row, \(5,\)"):
        loss(y_pred, y_true, torch.ones(7))


def test_weights_of_binary_classes_are_those_of_their_rows():
    y_pred, y_true = batch("binary", (20, 1))
    wanted = em.TaskLoss("binary")(y_pred, y_true, torch.where(y_true == 1, 5.0, 2.0)[:, 0])
    torch.testing.assert_close(em.TaskLoss("binary", class_weight=[2, 5])(y_pred, y_true), wanted)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_balanced_weights_are_scikit_learns(kind):
    compute = pytest.importorskip("sklearn.utils.class_weight").compute_class_weight
    labels = np.random.default_rng(0).choice(
        3 if kind == "multiclass" else 2, 50, p=[0.1, 0.6, 0.3] if kind == "multiclass" else [0.2, 0.8]
    )
    y_true = torch.from_numpy(labels)
    y_true = y_true if kind == "multiclass" else y_true.double().unsqueeze(1)
    found = balanced(read_labels(y_true, kind, 3 if kind == "multiclass" else 1, torch.float64), kind).flatten()
    np.testing.assert_allclose(found, compute("balanced", classes=np.unique(labels), y=labels))
    logits = torch.randn(50, 3 if kind == "multiclass" else 1, dtype=torch.float64)
    numbers, words = (
        em.TaskLoss(kind, class_weight=given)(logits, y_true) for given in (found.tolist(), "balanced")
    )
    torch.testing.assert_close(numbers, words)


@pytest.mark.parametrize("given", [[1.0], [1.0, -1.0], [1.0, NAN], "even", {0: 1.0, 1: 2.0}, [[1.0, 2.0]]])
def test_weights_of_classes_that_make_no_sense_are_refused(given):
    with pytest.raises(ValueError, match="class_weight"):
        em.TaskLoss("binary", class_weight=given)


def test_as_many_weights_as_classes_are_needed():
    with pytest.raises(ValueError, match="class_weight has 2 numbers, but there are 3 classes"):
        em.TaskLoss("multiclass", class_weight=[1, 2])(torch.zeros(4, 3), torch.zeros(4).long())


# ---- reductions and options --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES[:4])
@pytest.mark.parametrize(
    ("kind", "shape", "rows"),
    [
        ("regression", (5,), (5,)), ("regression", (5, 3), (5,)), ("binary", (5, 4, 1), (5, 4)),
        ("binary", (5, 1, 4, 2), (5, 4, 2)), ("multiclass", (5, 3), (5,)), ("multiclass", (5, 3, 4, 2), (5, 4, 2)),
    ],
)  # fmt: skip
def test_reductions_belong_together(kind, shape, rows, name):
    loss, (y_pred, y_true) = losses(kind)[name], batch(kind, shape)
    each = loss.replace(reduction="none")(y_pred, y_true)
    assert each.shape == rows
    torch.testing.assert_close(loss.replace(reduction="sum")(y_pred, y_true), each.sum())
    torch.testing.assert_close(loss(y_pred, y_true), each.mean())
    assert loss.reduction == "mean"


def test_options_are_checked_and_stand_in_the_copy_alone():
    loss = em.LearnedLoss("square(sub(f, y))", "binary", reduction="sum", ignore_index=-1)
    other = loss.replace(class_weight=[1, 3])
    assert (other.reduction, other.ignore_index, other.class_weight, loss.class_weight) == (
        "sum",
        -1,
        [1, 3],
        None,
    )
    assert other.phi is not loss.phi
    with pytest.raises(ValueError, match="unknown reduction 'average'"):
        em.TaskLoss(reduction="average")
    with pytest.raises(ValueError, match=r"unknown option of a loss 'reducton'; did you mean 'reduction'\?"):
        em.TaskLoss(reducton="mean")
    with pytest.raises(ValueError, match=r"loss\.replace"):
        loss.python_source()


# ---- as PyTorch's own losses behave ------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch_is_nan_with_a_gradient_of_zeros_rows_as_in_pytorch(kind, name):
    y_pred = torch.zeros(0, 3, requires_grad=True)
    y_true = torch.zeros(0).long() if kind == "multiclass" else torch.zeros(0, 3)
    value = losses(kind)[name](y_pred, y_true)
    assert value.isnan()
    value.backward()
    assert y_pred.grad.shape == (0, 3)


def test_a_batch_of_missing_labels_alone_is_nan_as_in_pytorch():
    logits, labels = torch.zeros(4, 3), torch.full((4,), -100)
    assert functional.cross_entropy(logits, labels).isnan()
    assert em.TaskLoss("multiclass")(logits, labels).isnan()
    assert em.TaskLoss("multiclass", reduction="sum")(logits, labels) == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast_a_loss_is_computed_in_float32(kind, name):
    loss, (y_pred, y_true) = losses(kind)[name], batch(kind, (6, 3))
    half = y_pred.bfloat16()
    wanted = loss(half.float(), y_true)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(half, y_true)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(wanted.item(), rel=1e-6)


@pytest.mark.parametrize("name", NAMES[:4])
@pytest.mark.parametrize("kind", KINDS)
def test_meta_tensors_give_a_meta_scalar_and_nested_ones_a_clear_line(kind, name):
    loss, (y_pred, y_true) = losses(kind)[name], batch(kind, (6, 3))
    value = loss.to("meta")(y_pred.to("meta"), y_true.to("meta"))
    assert value.shape == ()
    assert value.device.type == "meta"
    nested = torch.nested.nested_tensor([torch.zeros(2, 1), torch.zeros(3, 1)], layout=torch.jagged)
    with pytest.raises(ValueError, match="to_padded_tensor"):
        loss(nested, nested)


@pytest.mark.parametrize("name", NAMES[:4])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_single_rows_can_be_mapped(kind, name):
    loss, (y_pred, y_true) = losses(kind)[name], batch(kind, (6, 3))
    mapped = torch.vmap(lambda f, y: loss(f.unsqueeze(0), y.unsqueeze(0)))(y_pred, y_true)
    torch.testing.assert_close(mapped, loss.replace(reduction="none")(y_pred, y_true))


# ---- saved states ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        em.LearnedLoss("abs(sub(y, f))"),
        em.LearnedLoss("square(add(y, f))"),
        em.LearnedLoss("square(sub(y, f))", "binary"),
        em.LearnedLoss("square(sub(y, f))", softplus=True),
        em.TaylorLoss(),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_the_state_of_another_loss_is_refused_and_nothing_is_loaded(other, strict):
    trained = em.LearnedLoss("square(sub(y, f))", phi=[0.9, 1.1, 1.2])
    before = [weights.clone() for weights in other.parameters()]
    with pytest.raises(RuntimeError) as error:
        nn.ModuleDict({"loss": other}).load_state_dict(
            {f"loss.{k}": v for k, v in trained.state_dict().items()}, strict=strict
        )
    assert trained.identity in str(error.value)
    assert other.identity in str(error.value)
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


def test_the_state_of_a_polynomial_with_other_roles_is_refused():
    with pytest.raises(RuntimeError, match=r"TaylorLoss\(kind='regression', roles='swapped'\), and this is"):
        em.TaylorLoss().load_state_dict(em.TaylorLoss(roles="swapped").state_dict())


def test_the_state_of_the_same_loss_is_loaded_from_a_file(tmp_path):
    trained = em.LearnedLoss("square(sub(y, f))", phi=[0.9, 1.1, 1.2])
    torch.save(trained.state_dict(), tmp_path / "state.pt")
    again = em.LearnedLoss("square(sub(y, f))", reduction="sum")
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(again.phi, trained.phi)


# ---- losses that results hand out --------------------------------------------------------------------


def test_the_losses_of_a_result_are_fixed_copies_and_looking_at_them_changes_nothing():
    tuned = em.LearnedLoss("square(sub(y, f))", phi=[0.9, 1.1, 1.2])
    result = em.SearchResult("evomal", [em.Evaluation(tuned, 0.5)], [], [em.Evaluation(tuned, 0.5)])
    handed_out = [
        result.best, result.best_evaluation.loss, result.front()[0].loss, result.evaluations[0].loss,
        result.population[0].loss,
    ]  # fmt: skip
    for loss in handed_out:
        assert not any(weights.requires_grad for weights in loss.parameters())
        assert loss.phi is not tuned.phi
    assert tuned.phi.requires_grad
    for loss in (result.best, result.front()[0].loss):
        with torch.no_grad():
            loss.requires_grad_().phi.zero_()
    assert torch.equal(result.best.phi, tuned.phi)
    assert not result.evaluations[0].loss.phi.requires_grad


@pytest.mark.parametrize("name", ["learned", "task"])
@pytest.mark.parametrize(
    ("kind", "y", "said"),
    [
        ("binary", [[-1.0], [1.0]], "labels of a binary loss are 0, 1 or .* got -1; of −1 and 1, write"),
        ("binary", [[0], [2]], "labels of a binary loss .* got 2"),
        ("multiclass", [[0.5, 0.5], [-0.5, 1.5]], "labels of a multiclass loss .* got -0.5"),
    ],
)
def test_labels_that_are_no_probabilities_are_refused(kind, y, said, name):
    y_pred, y_true = torch.randn(2, len(y[0])), torch.tensor(y)
    with pytest.raises(ValueError, match=said):
        losses(kind)[name](y_pred, y_true)
    # softmax and bicubic interpolation round, and what is left out may have any mark
    losses("binary")[name].replace(ignore_index=7)(torch.randn(3), torch.tensor([1.0001, -1e-6, 7.0]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (-torch.ones(2), "finite and at least 0, got -1; give 0 to what is not to count"),
        (torch.tensor([1.0, math.nan]), "finite and at least 0, got nan"),
        (torch.tensor([math.inf, 1.0]), "finite and at least 0, got inf"),
        ([1, 1], r"weight is a tensor, got a list; write torch.as_tensor\(weight\)"),
        (np.ones(2), r"weight is a tensor, got a ndarray; write torch.as_tensor\(weight\)"),
        (torch.ones(2, dtype=torch.complex64), "weight holds real numbers, got torch.complex64"),
    ],
)
def test_weights_of_a_loss_that_make_no_sense_are_refused(kind, weight, said):
    y_pred = torch.randn(2, 2)
    y_true = torch.tensor([0, 1]) if kind == "multiclass" else torch.ones(2, 2)
    with pytest.raises(ValueError, match=said):
        em.TaskLoss(kind)(y_pred, y_true, weight=weight)
    with pytest.raises(ValueError, match=said):
        em.Task("t", kind, (torch.zeros(2, 1), y_true), sample_weight=weight)


@pytest.mark.parametrize("kind", KINDS)
def test_checks_of_values_leave_compiled_and_transformed_losses_as_they_are(kind):
    loss = em.TaskLoss(kind)
    y_pred, weight = torch.randn(4, 2), torch.rand(4)
    y_true = torch.rand(4, 2).softmax(dim=1)
    plain = torch.func.grad(loss)(y_pred, y_true, weight)
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    leaf = y_pred.clone().requires_grad_()
    compiled(leaf, y_true.requires_grad_(), weight).backward()
    torch.testing.assert_close(leaf.grad, plain)
    _, slope = torch.func.jvp(lambda f: loss(f, y_true, weight), (y_pred,), (torch.ones_like(y_pred),))
    torch.testing.assert_close(slope, plain.sum())
    rows = torch.vmap(lambda f, y, w: loss(f[None], y[None], w[None]))(y_pred, y_true, weight)
    torch.testing.assert_close((rows * weight).sum() / weight.sum(), loss(y_pred, y_true, weight))
    torch.func.vmap(loss)(y_pred[None], -y_true[None], weight[None])  # which can't be looked at
