"""Tasks in this process, in those of a Dask cluster of its own, or on a cluster that there is already. Runs seed their
process's generator, so that each worker does one task at a time.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from typing import Any

from tqdm import tqdm

from lorasam_core.errors import brief

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class RunError(RuntimeError):
    """A run failed; the message names the run and its log."""


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


def check(workers: int, scheduler: str = "") -> None:
    """Raise ValueError for a number of workers or the address of a scheduler with which `execute` can do nothing."""
    if workers < 1:
        raise ValueError(f"workers is {workers}; give a whole number of at least 1.")
    if (workers > 1 or scheduler) and find_spec("distributed") is None:
        raise ValueError("several workers need dask.distributed, which is not installed; pip install -e .[book]")
    if scheduler:
        with _connected(scheduler):
            pass


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """The client of the scheduler at an address."""
    from distributed import Client

    try:
        client = Client(address, timeout=5)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no Dask scheduler answers at {address!r} ({brief(error)}); start one with dask scheduler, "
            "or leave it out."
        ) from error
    with client:
        if any(threads > 1 for threads in client.nthreads().values()):
            raise ValueError(
                f"a worker at {address!r} has several threads, whose runs would share one seeded generator; start it "
                "with dask worker --nthreads 1."
            )
        yield client


@contextmanager
def _own(workers: int) -> Iterator[Any]:
    """The client of a cluster of processes that share the cores evenly."""
    import dask
    from distributed import Client, LocalCluster

    threads = dict.fromkeys(THREAD_VARIABLES, str(max(1, (os.cpu_count() or 1) // workers)))
    settings = {
        "distributed.nanny.pre-spawn-environ": {},  # theirs is that of this process
        "distributed.scheduler.worker-saturation": 1.0,  # no task waits at a worker, and suffers when it dies
        # one that dies is started again in its place, which takes a while on a busy machine; closed meanwhile, its
        # start and its end have waited for one another forever
        "distributed.deploy.lost-worker-timeout": "2 minutes",
        "distributed.scheduler.no-workers-timeout": "10 minutes",  # a task without a worker fails, and nothing hangs
        "distributed.worker.daemon": False,  # a run may have processes that load its data
    }
    # torch and tqdm read the variables when they are imported
    with (
        environment(TQDM_DISABLE="1", **threads),
        dask.config.set(settings),
        LocalCluster(
            workers, threads_per_worker=1, processes=True, memory_limit=None, dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip

        async def replace() -> None:
            while cluster.status.name == "running":
                cluster.scale(workers)
                await asyncio.sleep(5)

        # a worker that dies as it starts, or is slow to start again, is given up; without one the tasks would wait
        cluster.loop.add_callback(replace)
        yield client


def execute(
    task: Callable[..., Any], jobs: Sequence[tuple[str, tuple[Any, ...]]], workers: int = 1, scheduler: str = "",
    unit: str = "run", stops: bool = False,
) -> tuple[dict[str, Any], dict[str, Exception]]:  # fmt: skip
    """Do task(*arguments) for every job (name, arguments); returns ({name: result}, {name: error}).

    workers: processes on this machine; 1: this process. scheduler: in place of them the address of a Dask scheduler,
    whose workers were started in the same folder, on the same files. One that fails stops no other, or, with `stops`,
    all: its error is raised. A task whose worker dies (out of memory, say) is given to another, until four have died
    of it. Raises ValueError as `check` does.
    """
    check(workers, scheduler)
    results: dict[str, Any] = {}
    errors: dict[str, Exception] = {}
    if not jobs:
        return results, errors
    calls: Iterator[tuple[str, Callable[[], Any]]]
    with _connected(scheduler) if scheduler else _own(workers) if workers > 1 else nullcontext() as client:
        if client is None:
            calls = ((name, partial(task, *arguments)) for name, arguments in jobs)
        else:
            calls = _scattered(client, task, jobs)
        with tqdm(total=len(jobs), unit=unit) as bar:
            for name, call in calls:
                bar.set_description(name)
                try:
                    results[name] = call()
                except Exception as error:
                    if stops:
                        raise
                    errors[name] = error
                bar.update()
    return results, errors


def _scattered(
    client: Any, task: Callable[..., Any], jobs: Sequence[tuple[str, tuple[Any, ...]]]
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The jobs in the order in which they end, each with a function that gives its result."""
    from distributed import KilledWorker, as_completed

    def result(future: Any) -> Any:
        try:
            return future.result()
        except KilledWorker as error:
            raise RuntimeError("its process ended without a word (out of memory?); try fewer workers.") from error

    names = {client.submit(task, *arguments, pure=False): name for name, arguments in jobs}
    for future in as_completed(names):
        yield names[future], partial(result, future)
