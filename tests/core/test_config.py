"""Configurations and seeds: typos and wrong types are refused, and derived generators stay apart."""

from __future__ import annotations

import hashlib
import math
import random

import numpy as np
import pytest
import torch
from helpers import SEEDS, global_generators_untouched
from hypothesis import given

import evomal_core as em
from evomal_core.devices import check_device
from evomal_core.seeds import check_seed, derive, isolated_torch, numpy_rng, python_rng, torch_rng
from evomal_paper.experiments.catalogue import EXPERIMENTS, check_methods, experiment
from evomal_paper.experiments.profiles import PROFILES
from evomal_paper.runs.tables import check_seeds

CLASSES = pytest.mark.parametrize("make", [em.SGD, em.SearchConfig])


@pytest.mark.parametrize(
    ("make", "field", "near"),
    [
        (em.SearchConfig, "popluation", "population"),
        (em.SearchConfig, "metasteps", "meta_steps"),
        (em.SGD, "nestrov", "nesterov"),
        (em.SGD, "weightdecay", "weight_decay"),
    ],
)
def test_a_misspelt_field_names_the_nearest_known_one(make, field, near):
    for build in (make, make().replace):
        with pytest.raises(ValueError, match=rf"{make.__name__} has no field '{field}'; did you mean '{near}'\?"):
            build(**{field: 1})


def test_a_base_setting_given_to_the_search_is_told_its_place():
    with pytest.raises(ValueError, match=r"no field 'lr'; .* write base=SGD\(lr=…\)"):
        em.SearchConfig(lr=0.1)


def test_a_field_unlike_any_other_lists_the_known_ones():
    with pytest.raises(ValueError, match="no field 'qqq'; known are lr, momentum, nesterov"):
        em.SGD(qqq=1)


BAD_SEARCH = [
    ("population", 0),
    ("population", -3),
    ("population", 2.5),
    ("population", 5.0),
    ("population", "25"),
    ("population", True),
    ("population", None),
    ("population", math.nan),
    ("generations", 0),
    ("generations", [50]),
    ("meta_steps", -1),
    ("tournament", 0),
    ("unroll_steps", 0),
    ("fitness_steps", 0),
    ("rejection_samples", 0),
    ("meta_lr", 0.0),
    ("meta_lr", -1e-3),
    ("meta_lr", math.nan),
    ("meta_lr", math.inf),
    ("meta_lr", "0.1"),
    ("meta_lr", True),
    ("rejection_lr", 0),
    ("taylor_sigma", math.nan),
    ("parsimony", 0.5),
    ("parsimony", 2.5),
    ("parsimony", math.nan),
    ("crossover_rate", 1.5),
    ("crossover_rate", math.nan),
    ("mutation_rate", -0.1),
    ("elitism_rate", "5 %"),
    ("softplus", "False"),
    ("softplus", "no"),
    ("softplus", 1),
    ("symbolic_archive", None),
    ("gradient_equivalence", "off"),
    ("function_set", "gecco24"),
    ("function_set", None),
    ("meta_optimizer", "rmsprop"),
    ("task_loss_on", "test"),
    ("fitness_on", "test"),
    ("initialisation", "zeros"),
    ("engine", "fastest"),
    ("initial_heights", (3, 2)),
    ("initial_heights", (2, 11)),
    ("initial_heights", (2,)),
    ("initial_heights", "24"),
    ("height_limit", 0),
    ("height_limit", 100),
    ("finalist_rates", ()),
    ("base", "sgd"),
    ("base", None),
]


@pytest.mark.parametrize(("field", "value"), BAD_SEARCH)
def test_a_bad_value_is_one_line_naming_field_and_value(field, value):
    with pytest.raises(ValueError, match=r"\w") as caught:
        em.SearchConfig(**{field: value})
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert field in message
    assert repr(value) in message
    with pytest.raises(ValueError, match=r"\w"):
        em.SearchConfig().replace(**{field: value})


def test_a_bad_value_within_another_is_named_with_its_place():
    with pytest.raises(ValueError, match=r"SGD\.lr = -1: "):
        em.SearchConfig(base={"lr": -1})
    with pytest.raises(ValueError, match=r"SearchConfig\.initial_heights\.0 = 1\.5: "):
        em.SearchConfig(initial_heights=(1.5, 3))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", 0),
        ("lr", -0.1),
        ("lr", math.nan),
        ("lr", math.inf),
        ("lr", None),
        ("lr", "0.1"),
        ("lr", True),
        ("momentum", 1.1),
        ("momentum", math.nan),
        ("weight_decay", -1e-4),
        ("weight_decay", math.inf),
        ("batch_size", 0),
        ("batch_size", 12.5),
        ("nesterov", "False"),
    ],
)
def test_a_bad_base_optimiser_is_refused(field, value):
    with pytest.raises(ValueError, match=rf"SGD\.{field} = "):
        em.SGD(**{"momentum": 0.9} | {field: value})


def test_values_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="nesterov needs a momentum above 0"):
        em.SGD(nesterov=True)
    with pytest.raises(ValueError, match=r"crossover_rate \+ mutation_rate \+ elitism_rate = 1.2 is above 1"):
        em.SearchConfig(crossover_rate=0.9)


@CLASSES
def test_configurations_are_frozen_and_hashable(make):
    config = make()
    with pytest.raises(ValueError, match="frozen"):
        config.lr = 1
    assert hash(config) == hash(make())
    assert config == make()


def test_replace_keeps_the_rest_and_validates_anew():
    config = em.SearchConfig(population=7, base=em.SGD(lr=0.5))
    changed = config.replace(generations=3)
    assert (changed.population, changed.generations, changed.base.lr) == (7, 3, 0.5)
    assert config.generations == 50
    with pytest.raises(ValueError, match="initial_heights"):
        config.replace(height_limit=1)


def test_whole_numbers_are_fine_where_real_ones_are_meant():
    assert em.SGD(lr=1, momentum=0).lr == 1.0


@pytest.mark.parametrize(
    ("population", "rate", "elites"), [(25, 0.05, 1), (60, 0.05, 3), (25, 0.0, 0), (1, 0.05, 1), (4, 0.3, 1)]
)
def test_five_percent_of_25_is_one_elite(population, rate, elites):
    config = em.SearchConfig(population=population, elitism_rate=rate, crossover_rate=0.5, mutation_rate=0.2)
    assert config.elites == elites


def test_defaults_and_paper_profiles_are_the_published_protocols():
    tpami = experiment("diabetes").profile("paper")
    search = tpami.search
    assert (search.population, search.generations, search.tournament) == (25, 50, 4)
    assert (search.crossover_rate, search.mutation_rate, search.elitism_rate) == (0.70, 0.25, 0.05)
    assert (search.initial_heights, search.height_limit) == ((2, 4), 10)
    assert (search.function_set, search.meta_steps, search.meta_optimizer) == ("tpami23", 250, "adam")
    assert (search.meta_lr, search.unroll_steps, search.fitness_steps) == (1e-3, 1, 500)
    assert search.base == em.SGD(lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, batch_size=128)
    assert (search.rejection_steps, search.rejection_samples, search.gradient_equivalence) == (1000, 100, False)
    assert (tpami.test_steps, tpami.seeds, tpami.hidden) == (10_000, 5, (1000, 1000))
    gecco = experiment("sine").profile("paper")
    search = gecco.search
    assert (search.function_set, search.meta_steps, search.meta_optimizer) == ("gecco23", 500, "adam")
    assert (search.fitness_steps, search.task_loss_on, search.initialisation) == (100, "same", "glorot")
    assert search.base == em.SGD(lr=1e-3, batch_size=100)
    assert search.symbolic_archive
    assert not search.rejection_steps
    assert not search.gradient_equivalence
    assert (gecco.test_steps, gecco.seeds, gecco.hidden) == (100, 10, (40, 40))


def test_every_experiment_has_every_profile_and_its_minutes():
    for entry in EXPERIMENTS.values():
        assert {"smoke", "quick", "paper"} <= set(entry.profiles) <= set(PROFILES)
        assert set(entry.profiles) - {"text", "calibrated"} == set(entry.minutes)


def test_a_list_in_a_profiles_name_keeps_its_commas():
    varied = experiment("sine").profile("quick@hidden=[8,9],initial_heights=[1,3],softplus=true")
    assert (varied.hidden, varied.search.initial_heights, varied.search.softplus) == ((8, 9), (1, 3), True)


def test_a_profile_can_be_varied_by_its_name():
    sine = experiment("sine")
    varied = sine.profile("quick@meta_optimizer=adam,base.lr=0.003,test_steps=7,rejection_steps=0")
    assert (varied.search.meta_optimizer, varied.search.base.lr, varied.test_steps) == ("adam", 0.003, 7)
    assert varied.replace(search=sine.profile("quick").search, test_steps=100) == sine.profile("quick")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quick@", "changes of a profile are written name=value,name=value, got ''"),
        ("quick@lr", "name=value,name=value, got 'lr'"),
        ("quick@meta_optimiser=adam", "did you mean 'meta_optimizer'"),
        ("quick@base.learning_rate=1", "SGD has no field 'learning_rate'"),
        ("quick@base.lr=fast", "SGD.lr = 'fast'"),
        ("quik@base.lr=1", "unknown profile 'quik'; did you mean 'quick'"),
        ("calibrated", "sine has no profile 'calibrated'; it has smoke, quick, paper"),
        ("quick@lr=1", "lr is a setting of the base optimiser: write base.lr=1"),
        ("quick@base.lr=1e-2", "write base.lr=0.01, got 'base.lr=1e-2'"),
        ("quick@base.lr=0.1,base.lr=0.2", "base.lr is changed twice"),
        ("quick@seeds=3", "use --seeds"),
        ("quick@split=leaking", "sine has no setting split; the profile .* would measure nothing new"),
        ("quick@learn_on=2", "sine has no setting learn_on"),
    ],
)
def test_a_wrong_change_of_a_profile_has_its_one_line(name, message):
    with pytest.raises(ValueError, match=message):
        experiment("sine").profile(name)


def test_unknown_experiments_profiles_and_methods_name_the_nearest():
    with pytest.raises(ValueError, match=r"unknown experiment 'sin'; did you mean 'sine'\?"):
        experiment("sin")
    with pytest.raises(ValueError, match=r"unknown profile 'quikc'; did you mean 'quick'\?"):
        experiment("sine").profile("quikc")
    with pytest.raises(ValueError, match=r"unknown method 'evomol'; did you mean 'evomal'\?"):
        check_methods(["baseline", "evomol"])
    for bad in ("evomal", [], ()):
        with pytest.raises(ValueError, match="methods is a list of one or more of baseline"):
            check_methods(bad)
    assert check_methods(["evomal", "baseline", "evomal"]) == ["baseline", "evomal"]


@pytest.mark.parametrize("seed", [-1, 1.0, "0", None, True, math.nan])
def test_a_seed_is_a_whole_number_of_at_least_zero(seed):
    with pytest.raises(ValueError, match=r"a seed is a whole number of at least 0, got "):
        check_seed(seed)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([0, 1, 0], "seeds overlap: 0 named more than once"),
        ([3, -1], "at least 0, got -1"),
        ([0.5], "got 0.5"),
        ([], r"got \[\]"),
        (0, "at least 1, got 0"),
        (-2, "at least 1, got -2"),
        ("3", "got '3'"),
        (2.0, "got 2.0"),
        (True, "got True"),
        (None, "got None"),
        ({0, 1}, "got {0, 1}"),
    ],
)
def test_repeated_negative_or_ill_typed_seeds_are_refused(seeds, message):
    with pytest.raises(ValueError, match=message):
        check_seeds(seeds)


def test_a_number_of_seeds_counts_from_zero():
    assert check_seeds(3) == [0, 1, 2]
    assert check_seeds([5, 2]) == check_seeds((5, 2)) == [5, 2]
    assert check_seeds(range(2, 4)) == [2, 3]


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "", None, "cpu gpu", 3.5])
def test_a_device_that_is_not_here_is_refused(device):
    with pytest.raises(ValueError, match=r"can't use device .*(known are|this machine has)"):
        check_device(device)


def test_cpu_is_a_device():
    assert check_device("cpu") == torch.device("cpu")


def test_derived_seeds_differ_by_every_argument_and_are_fixed_forever():
    arguments = [(0, "a"), (0, "b"), (1, "a"), (0, "a", 1), (0, "a", 1, 1), (0, "a", 11), (0, "a1")]
    assert len({derive(*a) for a in arguments}) == len(arguments)
    assert all(0 <= derive(*a) < 2**63 for a in arguments)
    digest = hashlib.sha256(b"0\x1fbreed\x1f1").digest()
    assert derive(0, "breed", 1) == int.from_bytes(digest[:8], "big") // 2


@given(SEEDS)
def test_derived_generators_draw_the_same_again_and_leave_the_global_ones(seed):
    def draws():
        with isolated_torch(seed, "x"):
            inside = torch.rand(1).item()
        return (
            inside,
            python_rng(seed, "x").random(),
            numpy_rng(seed, "x").random(),
            torch.rand(1, generator=torch_rng(seed, "x")).item(),
        )

    with global_generators_untouched():
        first = draws()
    random.seed(0)
    assert draws() == first
    assert python_rng(seed, "y").random() != first[1]


def test_isolation_ends_when_the_code_within_fails():
    with global_generators_untouched(), pytest.raises(RuntimeError), isolated_torch(0, "x"):
        torch.rand(3) @ torch.rand(2)


def test_numpys_generator_is_pcg64_so_streams_are_portable():
    assert type(numpy_rng(0, "x").bit_generator) is np.random.PCG64


def test_numbers_and_arrays_of_numpy_become_pythons():
    given = em.SearchConfig(
        population=np.int64(7),
        initial_heights=np.array([1, 3]),
        finalist_rates=(np.float64(0.5), 1.0),
        softplus=np.bool_(True),
        base=em.Optimizer("AdamW", lr=np.float64(0.5), betas=np.array([0.5, 0.75])),
    )
    wanted = em.SearchConfig(
        population=7,
        initial_heights=(1, 3),
        finalist_rates=(0.5, 1.0),
        softplus=True,
        base=em.Optimizer("AdamW", lr=0.5, betas=(0.5, 0.75)),
    )
    assert given == wanted
    assert repr(given) == repr(wanted)
    with pytest.raises(ValueError, match=r"population = 7\.0"):
        em.SearchConfig(population=np.float64(7))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: em.SGD(0.1), r"SGD got 0\.1; give settings by name, as in SGD\(lr=0\.01\)"),
        (lambda: em.SearchConfig(3, 4), r"SearchConfig got 3; .*SearchConfig\(function_set='tpami23'\)"),
        (lambda: em.SGD().replace(0.1), r"SGD\.replace got 0\.1; .* as in SGD\.replace\(lr=0\.01\)"),
        (lambda: em.Optimizer("Adam", 0.1), r"Optimizer got 0\.1; .* as in Optimizer\(lr=0\.001\)"),
        (lambda: em.Optimizer(), r"Optimizer\.name is required, as in Optimizer\('AdamW', lr=1e-3\)"),
    ],
)
def test_settings_without_a_name_and_missing_ones_are_one_clear_error(build, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        build()
