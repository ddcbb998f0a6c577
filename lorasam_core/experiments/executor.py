"""Runs handed to an executor: this process, a pool of processes, or another concurrent.futures Executor that does its
tasks one by one in processes. Runs seed the process's own generator, which threads would share.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class RunError(RuntimeError):
    """A run failed; the message names the run and its log."""


class ThisProcess(Executor):
    """An executor that does each task at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def environment(**changes: str) -> Iterator[None]:
    """Environment variables for the processes that are started meanwhile."""
    kept = {key: os.environ.get(key) for key in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for key, value in kept.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextmanager
def pool(workers: int) -> Iterator[Executor]:
    """An executor of `workers` processes that share the cores evenly; 1: this process. Raises ValueError below 1."""
    if workers < 1:
        raise ValueError(f"workers is {workers}; give a whole number of at least 1.")
    if workers == 1:
        yield ThisProcess()
        return
    threads = dict.fromkeys(THREAD_VARIABLES, str(max(1, (os.cpu_count() or 1) // workers)))
    spawn = multiprocessing.get_context("spawn")  # torch and tqdm read the variables when they are imported
    with environment(TQDM_DISABLE="1", **threads), ProcessPoolExecutor(workers, mp_context=spawn) as processes:
        yield processes


def execute(
    task: Callable[..., Any], jobs: Sequence[tuple[str, tuple[Any, ...]]], executor: Executor, unit: str = "run"
) -> tuple[dict[str, Any], dict[str, Exception]]:
    """Do task(*arguments) for every job (name, arguments); returns ({name: result}, {name: error}).

    One that fails stops no other. A worker that dies (out of memory, say) breaks its pool and every job in it: each of
    those is then tried once more in a process of its own, so that only the culprit fails.
    """
    results: dict[str, Any] = {}
    errors: dict[str, Exception] = {}
    futures: dict[str, Future[Any]] = {}
    with tqdm(total=len(jobs), unit=unit, disable=not jobs) as bar:

        def advance(_: Future[Any]) -> None:
            bar.update()

        for name, arguments in jobs:
            bar.set_description(name)
            try:
                futures[name] = executor.submit(task, *arguments)
                futures[name].add_done_callback(advance)
            except BrokenProcessPool as error:
                futures[name] = Future()
                futures[name].set_exception(error)
        for name, arguments in jobs:
            if not futures[name].done():
                bar.set_description(name)
            try:
                results[name] = futures[name].result()
            except BrokenProcessPool:
                try:
                    results[name] = _alone(task, arguments)
                except Exception as error:
                    errors[name] = error
            except Exception as error:
                errors[name] = error
    return results, errors


def _alone(task: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """One job in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(task, *arguments).result()
        except BrokenProcessPool as error:
            raise RuntimeError("its process ended without a word (out of memory?); try fewer workers.") from error
