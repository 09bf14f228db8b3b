"""Saved losses: exact round trips, and files that are damaged, newer or hostile."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from helpers import SEEDS, trees, weights_for
from hypothesis import given, settings
from hypothesis import strategies as st

import evomal_core as em
from evomal_core.library import loss_from_record

KINDS = ["regression", "binary", "multiclass"]
FAMILIES = [
    em.LearnedLoss("div(square(sub(y, f)), log(f))", phi=[0.1, 1 / 3, 3e-38, 1e38, 1.7, -2.5], softplus=True),
    em.NeuralLoss("binary", hidden=5, seed=1),
    em.TaylorLoss("multiclass", theta=[0.1, -0.2, 0.3, 1e-8, 5.0, -6.0, 7.0, 8.0]),
    em.TaskLoss("binary"),
    em.LearnedLoss("abs(sub(y, f))", "multiclass", reduction="sum", ignore_index=7, class_weight=[0.1, 2]),
    em.TaskLoss("binary", class_weight="balanced"),
]
GOOD = em.LearnedLoss("square(sub(y, f))").record()


def same(a: em.Loss, b: em.Loss) -> bool:
    weights = zip(a.parameters(), b.parameters(), strict=True)
    equal = (type(a), a.kind, a.options) == (type(b), b.kind, b.options)
    return equal and all(torch.equal(v, w) for v, w in weights)


@pytest.mark.parametrize("loss", FAMILIES, ids=lambda loss: type(loss).__name__)
def test_every_family_comes_back_bit_by_bit(loss, tmp_path):
    loss.save(tmp_path / "loss.json")
    again = em.load_loss(tmp_path / "loss.json")
    assert same(loss, again)
    assert repr(loss) == repr(again)
    assert [path.name for path in tmp_path.iterdir()] == ["loss.json"]


@given(trees(), st.sampled_from(KINDS), st.booleans(), SEEDS)
def test_symbolic_losses_come_back_bit_by_bit_through_json_text(tree, kind, softplus, seed):
    loss = em.LearnedLoss(tree, kind, phi=weights_for(tree, seed), softplus=softplus)
    again = loss_from_record(json.loads(json.dumps(loss.record(), allow_nan=False)))
    assert same(loss, again)
    assert (again.expression, again.softplus) == (tree, softplus)


@pytest.mark.parametrize("loss", FAMILIES, ids=lambda loss: type(loss).__name__)
def test_losses_can_be_copied_and_pickled(loss):
    assert same(loss, copy.deepcopy(loss))
    assert same(loss, pickle.loads(pickle.dumps(loss)))


def test_a_loss_that_has_diverged_is_not_saved_over_a_good_one(tmp_path):
    loss = em.LearnedLoss("square(sub(y, f))")
    loss.save(tmp_path / "loss.json")
    for bad in (float("nan"), float("inf")):
        loss.phi.data[1] = bad
        with pytest.raises(ValueError, match="it has diverged"):
            loss.save(tmp_path / "loss.json")
    assert em.load_loss(tmp_path / "loss.json").phi.tolist() == [1, 1, 1]


def test_a_loss_of_another_class_is_not_saved():
    with pytest.raises(TypeError, match="can't be saved"):
        em.Loss().record()


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*absent\.json"):
        em.load_loss(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("given", "said"), [("", "got ''"), (".", "got '.', a folder"), (None, "got None"), (3, "got 3")]
)
def test_what_is_no_file_is_told_what_to_give(given, said):
    with pytest.raises(ValueError, match=r"give the file of a saved loss, such as 'loss\.json', .*") as caught:
        em.load_loss(given)
    assert str(caught.value).endswith(said)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_of_the_same_name_does_not_hide_a_loss_of_the_zoo(tmp_path, monkeypatch):
    (tmp_path / "sine" / "evomal").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert isinstance(em.load_loss("sine/evomal"), em.LearnedLoss)


@pytest.mark.parametrize("length", [0, 1, 40, -3])
def test_truncated_file_is_named_as_truncated(tmp_path, length):
    path = tmp_path / "loss.json"
    path.write_text(json.dumps(GOOD)[:length])
    with pytest.raises(ValueError, match=r"loss\.json is not a whole JSON file .*truncated"):
        em.load_loss(path)


@pytest.mark.parametrize(
    "content", [b"\x80\x04\x95pickle", b"[" * 100_000, b"\xff\xfe{\x00", b"[1" + b"0" * 5000 + b"]"]
)
def test_a_file_that_is_no_json_is_one_clear_error(tmp_path, content):
    path = tmp_path / "loss.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"loss\.json is not"):
        em.load_loss(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version is 2, this EvoMAL reads up to 1; upgrade"),
        ({"version": "1"}, "version is '1'"),
        ({"version": True}, "version is True"),
        ({"format": "torch"}, 'no "format": "evomal-loss"'),
        ({"kind": "ranking"}, "unknown kind 'ranking'; known are regression"),
        ({"family": "forest"}, "unknown family 'forest'; known are symbolic"),
        ({"softplus": "False"}, "softplus is true or false, got 'False'"),
        ({"expression": "square(sub(y, g))"}, "unknown name 'g'"),
        ({"expression": 7}, "an expression is text"),
        ({"expression": "square(" * 10_000 + "f" + ")" * 10_000}, "1 to 5000 nodes"),
        ({"expression": "square(" * 1000 + "f" + ")" * 1000}, "at most 30 high"),
        ({"weights": [1.0, 1.0]}, "has 3 edges"),
        ({"weights": [1.0] * 4}, "has 3 edges"),
        ({"weights": [1.0, 1.0, float("nan")]}, "finite numbers"),
        ({"weights": [1.0, 1.0, "inf"]}, "finite numbers"),
        ({"weights": [1.0, 1.0, True]}, "finite numbers"),
        ({"weights": [1.0, 1.0, 1e39]}, "finite numbers"),
        ({"weights": [1.0, 1.0, 10**400]}, "finite numbers"),
        ({"weights": None}, "finite numbers"),
        ({"family": "taylor"}, "8 finite parameters"),
        ({"family": "neural", "hidden": 10**9}, "from 1 to 1000"),
        ({"family": "neural", "hidden": 2.0}, "from 1 to 1000"),
        ({"family": "neural", "hidden": 4}, "has 28 weights, got 3"),
        ({"family": "neural", "hidden": 1, "weights": [1.0, 1.0, 1.0, 1e39]}, "finite numbers"),
        ({"family": "task"}, "no weights, got 3"),
        ({"options": "sum"}, "options are by name, got 'sum'"),
        ({"options": {"reduce": "sum"}}, "unknown option of a loss 'reduce'; did you mean 'reduction'?"),
        ({"options": {"reduction": ["sum"]}}, "unknown reduction ['sum']"),
        ({"options": {"ignore_index": 10**30}}, "ignore_index is a whole number such as -100"),
        ({"kind": "binary", "options": {"class_weight": [{}, 1]}}, "one finite number from 0 for each class"),
    ],
)
def test_an_unusable_record_is_one_clear_line(change, message, tmp_path):
    path = tmp_path / "loss.json"
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(ValueError, match=r"loss\.json is not a usable loss") as caught:
        em.load_loss(path)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400 + len(str(path))


@pytest.mark.parametrize("part", sorted(GOOD))
def test_a_missing_part_is_named(part):
    record = {name: value for name, value in GOOD.items() if name != part}
    with pytest.raises(ValueError, match=part):
        loss_from_record(record)


@pytest.mark.parametrize(
    "code",
    [
        "__import__('os').system('touch {}')",
        "square(__import__('os').system('touch {}'))",
        "f if __import__('pathlib').Path('{}').touch() else y",
        "open('{}', 'w')",
    ],
)
def test_a_hostile_expression_is_refused_and_nothing_is_executed(code, tmp_path):
    victim = tmp_path / "victim"
    path = tmp_path / "loss.json"
    for field in ("expression", "kind", "family", "softplus"):
        path.write_text(json.dumps(GOOD | {field: code.format(victim)}))
        with pytest.raises(ValueError, match="not a usable loss"):
            em.load_loss(path)
    assert not victim.exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FAMILY_RECORDS = [loss.record() for loss in FAMILIES]


@settings(max_examples=300)
@given(JSON)
def test_any_json_is_a_loss_or_a_value_error(value):
    with pytest.raises(ValueError, match=r"\w"):
        loss_from_record(value)


@settings(max_examples=400)
@given(st.sampled_from(FAMILY_RECORDS), st.data())
def test_a_record_with_any_part_replaced_is_a_loss_or_a_value_error(record, data):
    parts = data.draw(st.lists(st.sampled_from(sorted(record)), min_size=1, max_size=2, unique=True))
    damaged = record | {part: data.draw(JSON, label=part) for part in parts}
    try:
        loss = loss_from_record(damaged)
    except ValueError:
        return
    assert all(torch.isfinite(weight).all() for weight in loss.parameters())
    assert set(parts) <= {"expression", "kind", "softplus", "weights", "hidden", "options"}
