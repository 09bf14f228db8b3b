"""Searching for a loss: `learn_loss` and the six methods behind it, all returning a `SearchResult`."""

from __future__ import annotations

import inspect
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from evomal_core import evolution, rivals
from evomal_core.checkpoints import Checkpoint
from evomal_core.checks import hint, is_number, refuse_unknown, takes_weight
from evomal_core.config import EVERYDAY, SGD, Optimizer, SearchConfig
from evomal_core.deadlines import OutOfTimeError
from evomal_core.devices import check_device, plain_torch, threads_for
from evomal_core.engines import curves_of, set_up
from evomal_core.evaluation import Found
from evomal_core.expression import Expression, in_form_of
from evomal_core.filters import sample_predictions
from evomal_core.finalists import choose, fold, train_finalists
from evomal_core.fingerprints import fingerprint
from evomal_core.kinds import TASK_LOSSES, Kind
from evomal_core.known import known_losses
from evomal_core.learners import Learner, ModelFactory, Problem, make_learners
from evomal_core.losses import LearnedLoss, Loss, TaskLoss
from evomal_core.metrics import UNWEIGHTED, make_metric
from evomal_core.primitives import TERMINALS, function_names
from evomal_core.progress import Progress
from evomal_core.result import SearchResult
from evomal_core.seeds import check_seed
from evomal_core.session import INTERRUPTED, OUT_OF_TIME, Search
from evomal_core.tasks import Task, check_values, missing_classes
from evomal_core.training import error, fitness
from evomal_core.trials import try_out
from evomal_core.weighted import balanced_cross_entropy

log = logging.getLogger("evomal")

Initial = Sequence[Expression | LearnedLoss | str] | Mapping[str, LearnedLoss] | SearchResult
"""Losses that a search starts from."""


_METHODS: dict[str, Callable[[Search], Found]] = {
    "baseline": rivals.baseline,
    "random": evolution.random_search,
    "gp-lfl": evolution.gp_lfl,
    "ml3": rivals.ml3,
    "taylorglo": rivals.taylorglo,
    "evomal": evolution.evomal,
    "glo": lambda search: rivals.glo(search, evolution.gp_lfl(search)),
}


METHODS: dict[str, str] = {
    "baseline": "no search: the task loss itself, squared error or cross-entropy",
    "random": "random expressions, as many as EvoMAL evaluates, without local search",
    "gp-lfl": "genetic programming without local search",
    "ml3": "a neural loss tuned by unrolled differentiation (Bechtle et al. 2021)",
    "taylorglo": "a Taylor polynomial tuned by CMA-ES (Gonzalez & Miikkulainen 2021)",
    "evomal": "genetic programming with local search by unrolled differentiation",
}
"""The methods compared by the papers, in the order used in every table and figure."""
OTHER_METHODS: dict[str, str] = {
    "glo": "genetic programming, then CMA-ES on the weights of the best trees (Gonzalez & Miikkulainen 2020)"
}
"""Methods that the papers mention and do not run."""


def learn_loss(
    tasks: Sequence[Task],
    model: ModelFactory,
    method: str = "evomal",
    *,
    config: SearchConfig | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    initial: Initial = (),
    device: str = "cpu",
    progress: bool = True,
    compare: bool = True,
    time_limit: float | None = None,
    patience: int | None = None,
    metric: str | Callable[..., Any] | None = None,
    task_loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    executor: Executor | None = None,
    **settings: Any,
) -> SearchResult:
    """Learn a loss function for a base network on one or more tasks.

    Solves `M* = argmin_M 1/m Σ_i L_P(y_i, f_theta_i*(x_i))` with `theta_i* = argmin_theta M(y_i, f_theta(x_i))`
    (TPAMI Eq. 2), over symbolic losses or the method's own family.

    Args:
        tasks: the meta-training tasks, all of one kind.
        model: makes a new base network, e.g. `lambda: models.mlp(10, [40, 40], 1)`. It returns predictions
            or logits of the shape of the labels.
        method: one of METHODS, or "glo".
        config: hyper-parameters; EVERYDAY by default. `SearchConfig()` has TPAMI's sizes and rates.
        seed: decides everything random; the same seed gives the same result.
        checkpoint: a folder to save the state in after each generation; a search that was stopped goes on
            from there when it is called again. A second search on the same folder waits for the first.
        initial: losses to start from, e.g. `["square(sub(y, f))"]`, `known_losses(kind)` or an earlier result to
            go on from: their formulas enter the first generation, and their weights are tuned anew. Of more
            losses than the population has, the first are taken.
        device: "cpu", "cuda" or "cuda:1".
        progress: whether a bar is shown.
        compare: whether the fitness of the task loss itself is measured too, by one more training; a warning says
            so if no loss that was found is better.
        time_limit: seconds after which no more candidates are begun, once some were evaluated; the result has what
            was found until then. The choice among finalists may take half as long again, or is left out. The same
            call with the same checkpoint goes on where it stopped.
        patience: generations without a better loss after which the search stops.
        metric: what fitness minimises: "error rate", "balanced error", "1 - macro F1", "log loss", "Brier", "ECE",
            "1 - AUC"; "MSE", "MAE", "median absolute error", "pinball(0.9)", "1 - R2"; a scikit-learn scorer or
            its name; or a function `(y_pred, y_true) -> float`, lower is better, with the weights of rows third if
            a task has them, see `metrics.make_metric`.
        task_loss: what local search lowers, differentiable, called as `task_loss(y_pred, y_true)`, with the
            weights of rows third if a task has them. By default squared error or cross-entropy, the latter with
            balanced classes where the metric is balanced.
        executor: any `concurrent.futures.Executor`, such as Dask's `client.get_executor()`, whose workers tune,
            filter and evaluate the candidates; the result is the same, bit by bit. Needs `evomal[cluster]`.
        **settings: fields of `SearchConfig` that differ from `config`, such as `generations=20`.

    Ctrl-C stops a search in the main thread, too: the result has what was found until then, and a warning says
    so. `result.stopped` says why a search stopped early, and `result.extend(generations=20)` goes on with it.

    Raises:
        ValueError: an argument is unknown or out of range, the tasks do not fit the model, or the checkpoint
            is a file, damaged, or belongs to another search.
        TypeError: `model()` is not an `nn.Module` with trainable weights.
        WorkerError: the executor's workers are gone, silent or of other versions.
    """
    refuse_unknown("method", method, [*METHODS, *OTHER_METHODS])
    seed = check_seed(seed)
    place = check_device(device)
    config = EVERYDAY if config is None else config
    if not isinstance(config, SearchConfig):
        raise ValueError(f"config is a SearchConfig, got {config!r:.60}; write config=SearchConfig(...)")
    config = _with_settings(config, settings)
    if isinstance(model, nn.Module) or not callable(model):
        raise ValueError(f"model makes a new network when called; write model=lambda: ..., got {_short(model)}")
    if isinstance(tasks, Task) or not isinstance(tasks, Iterable):
        raise ValueError(f"tasks is a list of tasks, e.g. [task], got {_short(tasks)}")
    tasks = [_measured(check_task(task, config).to(place), metric, task_loss) for task in tasks]
    if not tasks or len({task.kind for task in tasks}) > 1:
        kinds = ", ".join(sorted({task.kind for task in tasks})) or "none"
        raise ValueError(f"a search needs one or more tasks of one kind, got kinds: {kinds}")
    _check_limits(time_limit, patience)
    if executor is not None and not isinstance(executor, Executor):
        raise ValueError(
            f"executor is a concurrent.futures.Executor, got {_short(executor)}; of a Dask client, give "
            "client.get_executor()"
        )
    known = _initial_expressions(initial, config, tasks[0].kind)
    if known and method not in ("evomal", "gp-lfl", "random", "glo"):
        raise ValueError(f"method {method!r} does not start from known losses; leave initial out")
    with _undisturbed(place):
        learners = make_learners(tasks, model, config, seed, "meta-train")
        _check_optimiser(learners[0], config.base)
        for learner in learners:
            error(learner.network, learner.task, learner.task.labelled(config.fitness_on))  # tries the metric out
            try_out(learner)
        textbook = known_losses(tasks[0].kind, tasks[0], config.operations) if config.known else {}
        search = Search(
            method,
            learners,
            config,
            seed,
            Checkpoint(
                checkpoint,
                {} if checkpoint is None else fingerprint(method, learners, config, seed, known),
            ),
            Progress(method, progress),
            set_up,
            known,
            {loss.expression: loss for loss in textbook.values()},
            [*learners, *_further(tasks, model, config, seed)],
            Problem(tuple(tasks), model, config, seed, curves_of),
            deadline=_deadline(time_limit),
            choice_deadline=_deadline(time_limit, OVERTIME),
            patience=patience,
            executor=executor,
        )
        return _run(search, compare)


def _with_settings(config: SearchConfig, settings: dict[str, Any]) -> SearchConfig:
    known = [*inspect.signature(learn_loss).parameters, *SearchConfig.model_fields]
    for name in settings:
        if name not in SearchConfig.model_fields and name not in SGD.model_fields:
            remedy = hint(name, known, "see learn_loss and SearchConfig for what there is")
            if name in ("optimizer", "optimiser", "learning_rate"):
                remedy = "write base=Optimizer('AdamW', lr=…), or base=SGD(lr=…)"
            raise TypeError(f"learn_loss takes no {name!r}; {remedy}")
    return config.replace(**settings) if settings else config


def _run(search: Search, compare: bool) -> SearchResult:
    try:
        threads = threads_for(sum(weights.numel() for weights in search.learners[0].theta.values()))
        with threads, search.checkpoint.held():
            found = _METHODS[search.method](search)
            done = min(len(found.generations), search.config.generations)
            result = SearchResult(
                search.method, found.evaluations, found.generations, found.population, search.seconds,
                search.engine, stopped=search.stopped, problem=search.problem,
                metric=search.learners[0].task.measure.name,
                again=partial(_again, search, search.checkpoint.state, compare, done),
            )  # fmt: skip
            return result if search.method == "baseline" else _finished(search, result, compare)
    finally:
        search.progress.close()


def _finished(search: Search, result: SearchResult, compare: bool) -> SearchResult:
    """The result with its choice among finalists and the task loss's fitness, as far as Ctrl-C lets it."""
    done, wanted = min(len(result.generations), search.config.generations), search.config.generations
    lacking = f"that of {done} of {wanted} generations; see its extend"
    try:
        if result.stopped != INTERRUPTED:
            lacking = "without a choice among finalists; see its compare"
            if search.config.finalists:
                result = _chosen(search, result)
            lacking = "without the fitness of the task loss; see its compare"
            return _compared(search, result) if compare else result
    except KeyboardInterrupt:
        result = replace(result, stopped=INTERRUPTED)
    log.warning("Ctrl-C: the result is %s, or make the same call with the same checkpoint", lacking)
    return result


def _again(
    search: Search,
    state: Any,
    compare: bool,
    done: int,
    generations: int,
    time_limit: float | None = None,
    patience: int | None = None,
) -> SearchResult:
    """The search, gone on with from a state that has `done` generations for some more."""
    _check_limits(time_limit, patience)
    with _undisturbed(search.learners[0].device):
        more = replace(
            search,
            config=search.config.replace(generations=done + generations),
            checkpoint=search.checkpoint.extended(state, done + generations),
            progress=search.progress.anew(),
            seconds={},
            deadline=_deadline(time_limit),
            choice_deadline=_deadline(time_limit, OVERTIME),
            progressed=False,
            patience=patience,
            stopped="",
        )
        return _run(more, compare)


OVERTIME = 1.5
"""A multiple of the time limit: until then the choice among finalists may go on."""


def _deadline(time_limit: float | None, share: float = 1.0) -> float:
    return math.inf if time_limit is None else time.monotonic() + share * float(time_limit)


def _check_limits(time_limit: Any, patience: Any) -> None:
    if time_limit is not None and not (is_number(time_limit, Real) and time_limit > 0):
        raise ValueError(f"time_limit is a number of seconds above 0, got {time_limit!r}; leave it out for none")
    if patience is not None and not (is_number(patience, Integral) and patience >= 1):
        raise ValueError(f"patience is a whole number of generations, at least 1, got {patience!r}")


def _measured(task: Task, metric: Any, task_loss: Any) -> Task:
    """The task with the metric and the task loss that were asked for."""
    measure = make_metric(metric, task.kind)
    if task.sample_weight and not (measure.by_row or measure.takes_weight):
        raise ValueError(
            f"task {task.name!r} has sample_weight, but metric {measure.name!r} takes none; {UNWEIGHTED}"
        )
    if task_loss is None and measure.balanced:
        task_loss = balanced_cross_entropy(task)
    if task_loss is not None and not callable(task_loss):
        raise ValueError(f"task_loss is called as task_loss(y_pred, y_true), got {task_loss!r:.60}")
    if task.sample_weight and task_loss is not None and not takes_weight(task_loss):
        raise ValueError(
            f"task {task.name!r} has sample_weight, but task_loss {task_loss!r:.60} takes none; let it have a "
            "third argument weight, as evomal_core's losses have"
        )
    if isinstance(task_loss, nn.Module):
        task_loss = task_loss.to(task.train[0].device)
    return task if metric is None and task_loss is None else replace(task, metric=measure, task_loss=task_loss)


def _chosen(search: Search, result: SearchResult) -> SearchResult:
    """The result with its finalists, and the one of them that is to be used."""
    config, problem = search.config, search.problem
    starts = config.finalist_initialisations
    learners = problem.learners("finalists", starts, lambda task, number: fold(task, number, starts))
    known = known_losses(search.kind, problem.tasks[0], config.function_set) if config.known else {}
    samples = sample_predictions(search.learners, config)
    try:
        with search.timed("finalists"):
            finalists = train_finalists(
                result.evaluations, known, learners, samples, problem, search.choice_deadline
            )
    except OutOfTimeError:
        log.warning(
            "time limit: the best loss of the search stands, without a choice between it and known losses; give "
            "more time, or call result.compare()"
        )
        return replace(result, stopped=result.stopped or OUT_OF_TIME)
    best = choose(finalists) if finalists else None
    return replace(result, finalists=finalists, chosen=best if best and math.isfinite(best.mean) else None)


def _further(tasks: list[Task], model: ModelFactory, config: SearchConfig, seed: int) -> list[Learner]:
    """The tasks with other initial weights and batches than the first ones, for fitness."""
    numbers = range(1, config.initialisations)
    return [e for k in numbers for e in make_learners(tasks, model, config, seed, f"initialisation {k}")]


_SEARCHING = RLock()


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """One search at a time, with gradients and without autocast, whatever the caller's modes of PyTorch are.

    Its random generators and the levels of its forward-mode derivatives belong to the process, not to a thread.
    """
    with _SEARCHING, plain_torch(device):
        yield


def _compared(search: Search, result: SearchResult) -> SearchResult:
    with search.timed("task loss"):
        own = fitness(TaskLoss(search.kind), search.trained, search.config)
    name = TASK_LOSSES[search.kind]
    if math.isinf(own) and result.chosen is None:
        log.warning("neither %s nor any loss that was found trains a network to a finite %s", name, result.metric)
    elif result.fitness >= own and (result.chosen is None or result.chosen.name == name):
        known = (
            ""
            if search.initial or search.known
            else ", or start from the known losses: config.replace(known=True)"
        )
        log.warning(
            "no loss was found that is better than %s, whose fitness is %.4g (the best found: %.4g); "
            "search longer (generations, population)%s",
            name,
            own,
            result.fitness,
            known,
        )
    return replace(result, task_loss_fitness=own)


def _check_optimiser(learner: Learner, base: SGD | Optimizer) -> None:
    try:
        base.make(learner.network.parameters())
    except ValueError as error:
        name = base.name if isinstance(base, Optimizer) else "SGD"
        raise ValueError(f"{name} can't train this network: {error}; choose another base") from None


def _short(value: Any) -> str:
    return f"a {type(value).__name__}"


def check_task(task: Task, config: SearchConfig) -> Task:
    """The task, if it has the parts that the configuration reads.

    Raises:
        ValueError: it is not a Task, has values that can't be learned from, or has no validation part although
            the configuration needs one.
    """
    if not isinstance(task, Task):
        raise ValueError(f"tasks are evomal_core.Task objects, got {type(task).__name__}; see Task.from_arrays")
    for name in ("task_loss_on", "fitness_on"):
        if getattr(config, name) == "validation" and task.validation is None:
            raise ValueError(
                f"task {task.name!r} has no validation part, which {name}='validation' reads; "
                f"give it one (Task.from_arrays splits), or choose another {name}"
            )
    check_values(task)
    for split in sorted({"train", config.task_loss_on, config.fitness_on} & {"train", "validation"}):
        if missing := missing_classes(task, split):
            log.warning(
                "the %s part of %r has no row of class %s; another seed or split of Task.from_arrays may help",
                split,
                task.name,
                ", ".join(missing[:5]) + (", …" if len(missing) > 5 else ""),
            )
    return task


def _initial_expressions(initial: Initial, config: SearchConfig, kind: Kind) -> list[Expression]:
    if isinstance(initial, SearchResult):
        known = [e.loss for e in (initial.best_evaluation, *initial.population) if isinstance(e.loss, LearnedLoss)]
        if not known:
            raise ValueError(f"a result of method {initial.method!r} has no formulas to start from; leave it out")
        initial = list({loss.expression: loss for loss in known}.values())[: config.population]
    if isinstance(initial, Mapping):
        initial = list(initial.values())
    if isinstance(initial, str | Expression | Loss):
        raise ValueError(f"initial is a list of losses; write initial=[{initial!r}]")
    if not isinstance(initial, Iterable):
        raise ValueError(f"initial is a list of losses, got {initial!r:.100}; leave it out to start from none")
    names = {*function_names(config.operations), *TERMINALS}
    expressions = []
    for item in initial:
        if isinstance(item, LearnedLoss) and item.kind != kind:
            raise ValueError(
                f"the initial loss {str(item.expression)!r:.60} is of kind {item.kind!r}, but the tasks are of "
                f"kind {kind!r}; give losses of theirs, such as known_losses({kind!r}), or a formula as "
                "text, such as initial=['square(sub(y, f))']"
            )
        expression = item.expression if isinstance(item, LearnedLoss) else item
        if not isinstance(expression, Expression):
            expression = Expression.parse(expression)
        expression = in_form_of(config.operations, expression)
        if not expression.is_loss:
            raise ValueError(f"an initial loss uses both f and y, got {expression}")
        strangers = [name for name in expression.nodes if name not in names]
        if strangers:
            raise ValueError(
                f"{strangers[0]!r} in {expression} is not in function_set={config.function_set!r}; choose another"
            )
        if expression.height > config.height_limit:
            raise ValueError(f"{expression} is {expression.height} high, above height_limit {config.height_limit}")
        expressions.append(expression)
    if len(expressions) > config.population:
        log.warning(
            "a population of %d takes the first %d of %d initial losses; a larger one would take more",
            config.population,
            config.population,
            len(expressions),
        )
    return expressions[: config.population]
