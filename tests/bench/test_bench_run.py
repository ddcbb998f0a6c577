"""The bench: its cases, the order of its runs, what it keeps, and one real comparison."""

from __future__ import annotations

import inspect
import json
import runpy

import pytest

from bench import run
from bench.cases import GROUPS, Case, cases
from bench.work import WORK

CASE = Case("encoder-x", "encoder", "x", "encode", {"model": "lite"}, {"precision": "a"}, {"precision": "b"})


@pytest.fixture
def calls(monkeypatch):
    """Every process that would have been started; ours takes 1, 2, 3 ... s, the reference four times as long."""
    seen = []

    def answer(module, order, system_allocator=False):
        seen.append((module, order, system_allocator))
        if module == "answers":
            return {"threshold": 0.5} if "ours" not in order else {"relative_error": 0.0, "cosine": 1.0}
        turn = sum(1 for m, o, _ in seen if m == "child" and o["ours"] == order["ours"])
        seconds = ((turn - 1) % 5 + 1) * (1.0 if order["ours"] else 4.0)
        return {"seconds": seconds, "idle_mb": 1.0, "peak_mb": 2.0, "facts": {}}

    monkeypatch.setattr(run, "_call", answer)
    return seen


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_case_can_be_called_as_it_is_written(device):
    names = [case.name for case in cases(device)]
    assert len(names) == len(set(names))
    for case in cases(device):
        assert case.group in GROUPS
        for ours, side in ((True, case.ours), (False, case.reference)):
            inspect.signature(WORK[case.work]).bind(ours, device, **case.settings, **side)


def test_the_aims_of_the_cpu_are_those_that_were_set():
    aims = {case.name: (case.at_least, case.at_most) for case in cases("cpu") if case.at_least}
    assert aims == {
        "encoder-vit_b-1024-bf16": (3.5, None), "encoder-vit_b-1024-float32": (1.3, None),
        "generator-vit_b-tenth": (8.0, None), "generator-vit_b-all": (3.0, None),
        "generator-lite-guided": (10.0, None), "training-vit_b-8": (4.0, None), "training-vit_b-1": (4.0, None),
        "merged-vit_b": (0.95, 1.05),
    }  # fmt: skip


def test_sides_take_turns_and_the_reference_has_the_systems_allocator(calls):
    row = run.compare(CASE, "cpu")
    turns = [(order["ours"], allocator) for module, order, allocator in calls if module == "child"]
    assert turns == [(True, False), (False, True)] * 5
    assert row["ours"]["seconds"] == [1, 2, 3, 4, 5] and row["reference"]["seconds"] == [4, 8, 12, 16, 20]
    assert (row["ratio"], row["ratio_low"], row["ratio_high"]) == (4.0, 4.0, 4.0)
    orders = [order for module, order, _ in calls if module == "child"]
    assert [o["settings"]["precision"] for o in orders[:2]] == ["a", "b"]
    assert [bool(o["keep"]) for o in orders] == [True, True] + [False] * 8  # results are compared once


def test_two_sides_of_ours_have_one_allocator(calls):
    same = [case.name for case in cases("cpu") if case.against_ours]
    assert same == ["merged-vit_b", "merged-control", "training-checkpointing"]
    run.compare(next(case for case in cases("cpu") if case.against_ours), "cpu")
    assert not any(allocator for module, _, allocator in calls if module == "child")


def test_what_takes_over_a_minute_runs_three_times(calls, monkeypatch):
    monkeypatch.setattr(run, "LONG", 3.5)
    assert len(run.compare(CASE, "cpu")["reference"]["seconds"]) == 3


def test_a_share_that_passes_has_its_threshold_found_first(calls):
    case = Case("g", "generator", "g", "generate", {"passing": 0.1})
    run.compare(case, "cpu")
    assert [order["settings"].get("threshold") for m, order, _ in calls if m == "child"] == [0.5] * 10
    assert run.threshold(Case("g", "generator", "g", "generate", {"passing": 1.0}), "cpu") == {}


def test_rows_are_kept_and_not_measured_twice(calls, monkeypatch, tmp_path):
    other = Case("merged-y", "merged", "y", "merged", {})
    monkeypatch.setattr(run, "cases", lambda kind: [CASE, other])
    record = json.loads(run.bench("cpu", tmp_path, only="encoder").read_text())
    assert [row["case"]["name"] for row in record["rows"]] == ["encoder-x"]
    before = len(calls)
    record = json.loads(run.bench("cpu", tmp_path).read_text())
    assert [row["case"]["name"] for row in record["rows"]] == ["encoder-x", "merged-y"]
    assert {order["work"] for m, order, _ in calls[before:] if m == "child"} == {"merged"}
    before = len(calls)
    run.bench("cpu", tmp_path)
    assert len(calls) == before
    run.bench("cpu", tmp_path, only="merged", fresh=True)
    assert len(calls) == before + 11
    changed = Case("merged-y", "merged", "y", "merged", {"size": 2})
    monkeypatch.setattr(run, "cases", lambda kind: [CASE, changed])
    record = json.loads(run.bench("cpu", tmp_path, only="encoder").read_text())
    assert [row["case"]["name"] for row in record["rows"]] == ["encoder-x"]
    run.bench("cpu", tmp_path)
    assert len(calls) == before + 22  # a row of another case is not taken for this one's


def test_a_side_that_fails_says_why_and_leaves_what_was_made(calls, monkeypatch, tmp_path):
    monkeypatch.setattr(run, "cases", lambda kind: [CASE, Case("merged-y", "merged", "y", "merged", {})])
    answer = run._call

    def failing(module, order, system_allocator=False):
        if order.get("work") == "merged":
            raise run.BenchError("out of memory")
        return answer(module, order, system_allocator)

    monkeypatch.setattr(run, "_call", failing)
    with pytest.raises(run.BenchError, match="out of memory"):
        run.bench("cpu", tmp_path)
    assert (tmp_path / "cpu" / "encoder-x.json").is_file()


def test_a_process_that_fails_is_quoted():
    with pytest.raises(run.BenchError, match=r"^nothing of x failed:\n.*No module named bench\.nothing"):
        run._call("nothing", {"work": "x"})


def test_unknown_cases_and_devices_are_refused(tmp_path):
    with pytest.raises(ValueError, match="encoder-vit_b-1024-bf16"):
        run.bench("cpu", tmp_path, only="nonsense")
    with pytest.raises(ValueError, match="device"):
        run.bench("abacus", tmp_path)


@pytest.mark.slow
def test_a_real_comparison_of_the_encoder(tmp_path, monkeypatch, capsys):
    measured = run._call

    def call(module, order, system_allocator=False):
        """Both sides in processes of their own, and what compares them in this one."""
        if module == "child":
            return measured(module, order, system_allocator)
        monkeypatch.setattr("sys.argv", [module, json.dumps(order)])
        runpy.run_module(f"bench.{module}", run_name="__main__")
        return json.loads(capsys.readouterr().out)

    monkeypatch.setattr(run, "_call", call)
    monkeypatch.setattr(run, "RUNS", 1)
    row = json.loads(run.bench("cpu", tmp_path, only="encoder-lite-512-float32").read_text())["rows"][0]
    assert row["answers"]["relative_error"] < 1e-5 and row["answers"]["cosine"] == pytest.approx(1, abs=1e-9)
    for side in ("ours", "reference"):
        assert 0 < row[side]["seconds"][0] < 60
        assert 100 < row[side]["idle_mb"][0] <= row[side]["peak_mb"][0] + 1
