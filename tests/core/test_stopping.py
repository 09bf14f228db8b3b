"""Stopping a search early and going on with it: time limit, patience, Ctrl-C, more generations."""

from __future__ import annotations

import logging
import math
import pickle

import numpy as np
import pytest
from helpers import tiny_config
from test_search import SEARCHING, learn, outcome

import evomal_core as em
from evomal_core import search as search_module
from evomal_core.engines import Bench
from evomal_core.session import Search
from evomal_core.workers import Here, Workers

ON_SEARCHES = pytest.mark.parametrize("method", SEARCHING)


def after(monkeypatch, calls, action):
    """Do something at the nth generation's fitness."""
    real = Workers.fitness

    def counted(*arguments):
        calls[0] -= 1
        if calls[0] == 0:
            action()
        return real(*arguments)

    monkeypatch.setattr(Workers, "fitness", counted)


def interrupt():
    raise KeyboardInterrupt


@ON_SEARCHES
def test_a_search_out_of_time_goes_on_from_its_checkpoint_bit_by_bit(method, tmp_path):
    config = tiny_config(generations=4)
    whole = learn(method, config=config)
    for _ in range(3):
        part = learn(method, config=config, checkpoint=tmp_path, time_limit=1e-9)
        assert part.stopped == "time limit"
        assert part.evaluations
        assert list(part.generations) == list(whole.generations)[: len(part.generations)]
    rest = learn(method, config=config, checkpoint=tmp_path)
    assert rest.stopped == ""
    assert outcome(rest) == outcome(whole)


@ON_SEARCHES
@pytest.mark.parametrize("engine", ["autograd", "batched"])
@pytest.mark.parametrize("looks", [1, 4, 13])
def test_a_search_stops_between_candidates_and_loses_none(method, engine, looks, tmp_path, monkeypatch):
    config = tiny_config(generations=3, engine=engine)
    whole = learn(method, config=config)
    evaluated = []
    for phase in ("local_search", "fitness"):
        real = getattr(Bench, phase)

        def counted(bench, losses, tick, phase=phase, real=real):
            evaluated.extend((phase, f"{loss} {list(loss.parameters())}") for loss in losses)
            return real(bench, losses, tick)

        monkeypatch.setattr(Bench, phase, counted)
    with monkeypatch.context() as patched:
        left = [looks]

        def out_of_time(search):
            left[0] -= search.deadline < math.inf
            return left[0] < 0 and search.deadline < math.inf

        patched.setattr(Search, "out_of_time", property(out_of_time))
        part = learn(method, config=config, checkpoint=tmp_path, time_limit=3600, compare=False)
    assert part.stopped == ("time limit" if left[0] < 0 else "")
    assert part.evaluations
    once = list(evaluated)
    rest = learn(method, config=config, checkpoint=tmp_path, compare=False)
    assert outcome(rest) == outcome(whole)
    again = set(once) & set(evaluated[len(once) :])
    assert not again or not part.generations, "what was done is not done again, but for what a first result needs"


@ON_SEARCHES
def test_a_generous_time_limit_changes_nothing(method):
    limited = learn(method, time_limit=3600)
    assert outcome(limited) == outcome(learn(method))
    assert limited.stopped == ""
    assert "stopped" not in repr(limited)


@ON_SEARCHES
def test_patience_ends_a_search_that_finds_nothing_better(method):
    config = tiny_config(generations=12)
    best = [row["best_fitness"] for row in learn(method, config=config).generations]
    waits = [g for g in range(2, 12) if best[g] >= best[g - 2]]
    result = learn(method, config=config, patience=2)
    wanted = waits[0] + 1 if waits else 12
    assert len(result.generations) == wanted
    assert [row["best_fitness"] for row in result.generations] == best[:wanted]
    assert bool(result.stopped) == bool(waits)
    if waits:
        assert "no better loss in 2 generations" in repr(result)


@ON_SEARCHES
def test_more_generations_are_those_of_a_longer_search(method, tmp_path):
    whole = learn(method, config=tiny_config(generations=5))
    short = learn(method, config=tiny_config(generations=2))
    assert outcome(short.extend(3)) == outcome(whole)
    assert outcome(short.extend(1).extend(2)) == outcome(whole)
    assert len(short.generations) == 2, "the result itself stays as it is"
    assert short.extend(3).task_loss_fitness == whole.task_loss_fitness
    kept = learn(method, config=tiny_config(generations=2), checkpoint=tmp_path)
    assert outcome(kept.extend(1)) == outcome(short.extend(1))
    assert outcome(learn(method, config=tiny_config(generations=5), checkpoint=tmp_path)) == outcome(whole)


@pytest.mark.parametrize("method", ["evomal", "taylorglo"])
def test_a_script_that_extends_its_search_can_be_run_again(method, tmp_path, monkeypatch):
    """Neither the search nor its extensions are computed again, and one that was stopped goes on."""

    def script() -> list:
        first = learn(method, config=tiny_config(generations=2), checkpoint=tmp_path)
        part = first.extend(3, time_limit=1e-9)
        second = first.extend(3)
        return [outcome(first), outcome(second), outcome(second.extend(1)), len(part.generations)]

    *wanted, part = script()
    assert part < 5
    assert wanted == [outcome(learn(method, config=tiny_config(generations=g))) for g in (2, 5, 6)]
    monkeypatch.setattr(Here, "results", lambda *_: pytest.fail("computed again"))
    assert script() == [*wanted, 5]


GLO = {"generations": 1, "population": 3, "glo_trees": 2, "glo_generations": 2}


def test_the_weights_that_glo_searches_are_kept_at_a_time_limit_and_go_on_bit_by_bit(tmp_path):
    config = tiny_config(**GLO, engine="autograd")
    whole = learn("glo", config=config)
    done = []
    for _ in range(50):
        part = learn("glo", config=config, checkpoint=tmp_path, time_limit=1e-9, compare=False)
        assert list(part.generations) == list(whole.generations)[: len(part.generations)]
        done.append(len(part.generations))
        if not part.stopped:
            break
    assert outcome(part) == outcome(whole)
    assert {2, 3, 4} < set(done), "it stopped in the second part, too"


def test_more_generations_of_glo_are_those_of_its_first_part():
    short = learn("glo", config=tiny_config(**GLO))
    assert outcome(short.extend(1)) == outcome(learn("glo", config=tiny_config(**GLO | {"generations": 2})))


def test_a_stopped_search_can_be_extended():
    part = learn(config=tiny_config(generations=4), time_limit=1e-9)
    done = len(part.generations)
    assert part.stopped
    assert outcome(part.extend(4 - done)) == outcome(learn(config=tiny_config(generations=4)))
    more = part.extend(4 - done, patience=1)
    assert len(more.generations) <= 4


@ON_SEARCHES
@pytest.mark.parametrize("call", [2, 3])
def test_ctrl_c_gives_the_result_so_far_and_a_warning(method, call, monkeypatch, caplog, tmp_path):
    config = tiny_config(generations=4)
    whole = learn(method, config=config)
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING, "evomal"):
        after(patched, [call], interrupt)
        part = learn(method, config=config, checkpoint=tmp_path)
    assert part.stopped == "Ctrl-C"
    assert len(part.generations) == call - 1
    assert any("Ctrl-C" in message for message in caplog.messages)
    assert math.isfinite(part.fitness)
    assert outcome(part.extend(5 - call)) == outcome(whole)
    assert outcome(learn(method, config=config, checkpoint=tmp_path)) == outcome(whole)


@pytest.mark.parametrize(
    ("function", "lacking"),
    [
        ("train_finalists", "without a choice among finalists"),
        ("fitness", "without the fitness of the task loss"),
    ],
)
@pytest.mark.parametrize("method", ["ml3", "gp-lfl"])
def test_ctrl_c_after_the_search_keeps_what_it_found(method, function, lacking, monkeypatch, caplog, tmp_path):
    config = tiny_config(generations=2, finalists=2, finalist_initialisations=2, finalist_steps=4)
    whole = learn(method, config=config)
    with monkeypatch.context() as patched:
        patched.setattr(search_module, function, lambda *arguments: interrupt())
        part = learn(method, config=config, checkpoint=tmp_path)
    assert part.stopped == "Ctrl-C"
    assert lacking in caplog.text
    assert outcome(part) == outcome(whole)
    assert (part.chosen is None) == (function == "train_finalists")
    rest = learn(method, config=config, checkpoint=tmp_path)
    assert (outcome(rest), rest.stopped) == (outcome(whole), "")
    assert rest.task_loss_fitness == whole.task_loss_fitness
    assert rest.chosen.errors.tolist() == whole.chosen.errors.tolist()


def test_ctrl_c_before_anything_was_found_is_an_interrupt(monkeypatch):
    after(monkeypatch, [1], interrupt)
    with pytest.raises(KeyboardInterrupt):
        learn()


def test_a_checkpoint_with_more_generations_than_asked_for_is_refused(tmp_path):
    learn(checkpoint=tmp_path, config=tiny_config(generations=3))
    with pytest.raises(ValueError, match="holds 3 generations, more than generations=2; ask for as many"):
        learn(checkpoint=tmp_path, config=tiny_config(generations=2))


def test_a_checkpoint_of_other_settings_points_to_initial(tmp_path):
    learn(checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"belongs to another search: .*give initial=result"):
        learn(checkpoint=tmp_path, config=tiny_config(population=7))


def test_a_result_without_its_data_can_not_be_extended():
    with pytest.raises(ValueError, match=r"give it to learn_loss.*initial=result"):
        pickle.loads(pickle.dumps(learn())).extend(1)
    with pytest.raises(ValueError, match="method 'ml3' evaluates one loss and has no generations"):
        learn("ml3").extend(1)
    for wrong in (0, 1.5, True):
        with pytest.raises(ValueError, match=f"generations is a whole number of at least 1, got {wrong}"):
            learn().extend(wrong)


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"time_limit": 0}, "time_limit is a number of seconds above 0, got 0"),
        ({"time_limit": True}, "time_limit is a number of seconds above 0, got True"),
        ({"time_limit": "10"}, "time_limit is a number of seconds above 0, got '10'"),
        ({"time_limit": math.nan}, "time_limit is a number of seconds above 0, got nan"),
        ({"patience": 0}, "patience is a whole number of generations, at least 1, got 0"),
        ({"patience": 2.5}, "patience is a whole number of generations, at least 1, got 2.5"),
    ],
)
def test_bad_limits_are_refused(limit, message):
    with pytest.raises(ValueError, match=message):
        learn(**limit)


def test_numbers_of_numpy_are_taken_as_pythons():
    limits = {"time_limit": np.float32(3600), "patience": np.int64(9)}
    found = learn("gp-lfl", config=tiny_config(generations=np.int64(2), meta_lr=np.float64(1e-3)), **limits)
    assert outcome(found) == outcome(learn("gp-lfl", config=tiny_config(generations=2)))
    assert len(found.extend(np.int8(1)).generations) == 3


def test_a_result_without_formulas_is_no_start():
    with pytest.raises(ValueError, match="a result of method 'taylorglo' has no formulas to start from"):
        learn(initial=learn("taylorglo"))


def test_a_choice_among_finalists_that_takes_too_long_is_left_out(caplog, monkeypatch):
    config = tiny_config(generations=1).replace(finalists=2, known=True, base=em.Optimizer("AdamW", lr=0.01))
    monkeypatch.setattr(search_module, "OVERTIME", 1e-9)
    result = learn("gp-lfl", config=config, time_limit=3600)
    assert result.chosen is None
    assert result.best.expression == min(result.evaluations, key=lambda e: e.rank()).loss.expression
    assert result.stopped == "time limit"
    assert "without a choice between it and known losses" in caplog.text
