"""Tasks in this process and on clusters of real processes: one that fails stops no other."""

import os
import subprocess
import sys

import pytest

from lorasam_core.experiments.executor import check, environment, execute


def jobs(**expressions):
    return [(name, (text,)) for name, text in expressions.items()]


def test_in_this_process_failures_are_kept_by_name():
    results, errors = execute(eval, jobs(one="1 + 1", bad="1 / 0", three="3"))
    assert results == {"one": 2, "three": 3}
    assert list(errors) == ["bad"] and isinstance(errors["bad"], ZeroDivisionError)


def test_dask_is_imported_only_where_it_is_used():
    code = (
        "import sys; from lorasam_core.experiments.sweeps import run_one; "
        "from lorasam_core.experiments.executor import execute; execute(eval, [('one', ('1',))]); "
        "execute(eval, [], workers=4); print(sorted({'dask', 'distributed'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_on_workers_cores_are_shared_and_one_that_dies_is_replaced_or_fails_alone(tmp_path, capfd):
    pytest.importorskip("distributed")
    once = tmp_path / "once"
    # after a while: one that dies as it starts is given up for two minutes before another takes its place
    kill = "(__import__('time').sleep(3), __import__('os').kill(__import__('os').getpid(), 9))"
    dies_once = f"(lambda path: 'again' if path.exists() else (path.touch(), {kill}))"
    dies_once += f"(__import__('pathlib').Path({str(once)!r}))"
    listed = jobs(
        threads="[__import__('os').environ[name] for name in ('OMP_NUM_THREADS', 'TQDM_DISABLE')]",
        dies=kill, once=dies_once, bad="1 / 0", process="__import__('os').getpid()",
        free="__import__('multiprocessing').current_process().daemon",
    )  # fmt: skip
    results, errors = execute(eval, listed, workers=2)
    assert results.pop("process") != os.getpid()
    assert results == {"threads": [str(max(1, (os.cpu_count() or 1) // 2)), "1"], "once": "again", "free": False}
    assert errors.keys() == {"dies", "bad"} and isinstance(errors["bad"], ZeroDivisionError)
    assert str(errors["dies"]) == "its process ended without a word (out of memory?); try fewer workers."
    shown = capfd.readouterr().err
    assert "6/6" in shown and "Traceback" not in shown and "distributed" not in shown  # one bar, and nothing else


@pytest.fixture
def threads_of_a_cluster():
    """Address of a scheduler by the threads of its worker, as one that somebody else has started."""
    distributed = pytest.importorskip("distributed")
    started = []

    def start(threads):
        cluster = distributed.LocalCluster(
            1, threads_per_worker=threads, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0"
        )
        started.append(cluster)
        return cluster.scheduler_address

    yield start
    for cluster in started:
        cluster.close()


def test_on_an_existing_cluster_workers_of_one_thread_do_the_tasks(threads_of_a_cluster):
    address = threads_of_a_cluster(1)
    check(1, address)
    results, errors = execute(eval, jobs(a="1 + 1", bad="1 / 0"), scheduler=address)
    assert results == {"a": 2} and list(errors) == ["bad"]
    with pytest.raises(ValueError, match=r"several threads, .* --nthreads 1\.$"):
        check(1, threads_of_a_cluster(2))


def test_a_scheduler_that_does_not_answer_is_named():
    pytest.importorskip("distributed")
    with pytest.raises(ValueError, match=r"^no Dask scheduler answers at 'tcp://127\.0\.0\.1:1' \(.*\); start one"):
        execute(eval, jobs(a="1"), scheduler="tcp://127.0.0.1:1")


def test_environment_is_put_back(monkeypatch):
    monkeypatch.setenv("LORASAM_A", "old")
    monkeypatch.delenv("LORASAM_B", raising=False)
    with environment(LORASAM_A="new", LORASAM_B="new"):
        assert os.environ["LORASAM_A"] == os.environ["LORASAM_B"] == "new"
    assert os.environ["LORASAM_A"] == "old" and "LORASAM_B" not in os.environ


@pytest.mark.parametrize("workers", [0, -1])
def test_fewer_than_one_worker_is_refused(workers):
    with pytest.raises(ValueError, match="at least 1"):
        execute(eval, [], workers)


def test_where_one_failure_stops_all_nothing_is_done_after_it():
    done = []

    def task(number):
        done.append(number)
        if number == 1:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        execute(task, [(str(n), (n,)) for n in range(4)], stops=True)
    assert done == [0, 1]
    assert list(execute(task, [(str(n), (n,)) for n in range(4)])[1]) == ["1"]
    assert done == [0, 1, 0, 1, 2, 3]
