"""Jobs in this process and in others: one that fails stops no other."""

import os

import pytest

from lorasam_core.experiments.executor import environment, execute, pool


def jobs(**expressions):
    return [(name, (text,)) for name, text in expressions.items()]


def test_in_this_process_failures_are_kept_by_name():
    with pool(1) as executor:
        results, errors = execute(eval, jobs(one="1 + 1", bad="1 / 0", three="3"), executor)
    assert results == {"one": 2, "three": 3}
    assert list(errors) == ["bad"] and isinstance(errors["bad"], ZeroDivisionError)


def test_in_other_processes_cores_are_shared_and_a_dead_worker_fails_alone():
    threads = "__import__('os').environ['OMP_NUM_THREADS']"
    with pool(2) as executor:
        results, errors = execute(eval, jobs(a=threads, dies="__import__('os')._exit(3)", b="2 + 2"), executor)
    assert results == {"a": str(max(1, (os.cpu_count() or 1) // 2)), "b": 4}
    assert list(errors) == ["dies"] and "ended without a word" in str(errors["dies"])


def test_environment_is_put_back(monkeypatch):
    monkeypatch.setenv("LORASAM_A", "old")
    monkeypatch.delenv("LORASAM_B", raising=False)
    with environment(LORASAM_A="new", LORASAM_B="new"):
        assert os.environ["LORASAM_A"] == os.environ["LORASAM_B"] == "new"
    assert os.environ["LORASAM_A"] == "old" and "LORASAM_B" not in os.environ


@pytest.mark.parametrize("workers", [0, -1])
def test_fewer_than_one_worker_is_refused(workers):
    with pytest.raises(ValueError, match="at least 1"), pool(workers):
        pass
