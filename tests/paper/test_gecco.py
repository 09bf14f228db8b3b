"""GECCO's experiments: the protocol as published, and which classes form which task."""

import pytest

from evomal_paper.experiments.catalogue import experiment
from evomal_paper.runs.compute import compute
from evomal_paper.runs.run import Run


@pytest.mark.parametrize(
    ("name", "steps", "meta_steps", "batch"),
    [  # GECCO'23 section 4.1
        ("sine", 100, 500, 100),
        ("mnist", 250, 1000, 128),
        ("cifar10", 2000, 1000, 256),
        ("surname", 2000, 1000, 256),
        ("digits", 250, 1000, 128),
        ("digits5", 2000, 1000, 256),
    ],
)
def test_the_paper_profile_is_the_published_protocol(name, steps, meta_steps, batch):
    paper = experiment(name).profile("paper")
    search = paper.search
    assert (search.fitness_steps, paper.test_steps, search.meta_steps) == (steps, steps, meta_steps)
    assert (search.base.lr, search.base.momentum, search.base.weight_decay) == (1e-3, 0, 0)
    assert (search.base.batch_size, search.meta_lr, search.meta_optimizer) == (batch, 1e-3, "adam")
    assert (search.population, search.generations, search.unroll_steps) == (25, 50, 1)
    assert (search.function_set, search.initialisation, paper.seeds) == ("gecco23", "glorot", 10)
    assert (paper.images, paper.test_images) == (0, 0)


def test_the_first_task_is_learned_on_or_another_where_the_profile_says_so():
    entry = experiment("digits")
    problem = entry.problem(entry.profile("smoke"), 0)
    assert [task.classes for task in problem.train] == [("0", "1")]
    assert [task.classes for task in problem.test] == [("2", "3"), ("4", "5"), ("6", "7"), ("8", "9")]
    other = entry.problem(entry.profile("smoke@learn_on=3"), 0)
    assert [task.classes for task in other.train] == [("6", "7")]
    assert [task.classes for task in other.test] == [("0", "1"), ("2", "3"), ("4", "5"), ("8", "9")]
    with pytest.raises(ValueError, match="learn_on is one of 0 to 4, got 5"):
        entry.problem(entry.profile("smoke@learn_on=5"), 0)


def test_five_classes_are_learned_on_and_the_other_five_are_new():
    entry = experiment("digits5")
    problem = entry.problem(entry.profile("smoke"), 0)
    (known,), (new,) = problem.train, problem.test
    assert (known.classes, new.classes) == (tuple("01234"), tuple("56789"))
    assert {name: len(x) for name, (x, _) in known.parts().items()} == {"train": 40, "test": 40}
    assert known.train[1].bincount().tolist() == [8] * 5
    whole = entry.problem(entry.profile("paper"), 0)
    assert sum(len(task.train[0]) for task in (*whole.train, *whole.test)) == 1437


def test_a_run_records_which_classes_formed_its_tasks(tmp_path):
    run = Run("digits5", "smoke", "baseline", 0, tmp_path)
    compute(run, progress=False)
    tasks = run.record()["tasks"]
    assert tasks == {"in-sample": ["digits: 0, 1, 2, 3, 4"], "out-of-sample": ["digits: 5, 6, 7, 8, 9"]}
