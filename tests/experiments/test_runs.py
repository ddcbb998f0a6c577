"""One run from settings to finished folder, with a random compact model on generated particles."""

import copy
import json
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file

from lorasam_core.config import UNRATED, RunConfig
from lorasam_core.data import Split
from lorasam_core.experiments import baselines, runs, unet
from lorasam_core.experiments.executor import RunError, execute
from lorasam_core.experiments.records import read_record
from lorasam_core.masks.thresholds import THRESHOLDS
from lorasam_core.models.lite import build_lite
from lorasam_core.models.lora import load_adapter, read_adapter
from lorasam_core.training import blocks
from tests.tiny_sam import same

FILES = {
    "adapter.safetensors", "config.json", "environment.json", "history.csv", "log.txt", "metrics.json",
    "per_image.csv", "split.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Settings of a tiny run; the base is a file of random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("base") / "random.pth"
    torch.save(build_lite().state_dict(), path)
    yield RunConfig(
        checkpoint=str(path), image_size=64, limit=10, rank=2, steps=2, batch_size=2, crop_size=96, prompts_per_image=2,
        evaluate=("predictor", "box"), test_limit=1, device="cpu", precision="32-true",
    )  # fmt: skip
    runs.base_sam.cache_clear()


@pytest.fixture(scope="module")
def record(settings, tmp_path_factory):
    return runs.run_one(settings, tmp_path_factory.mktemp("edition"))


def test_a_run_leaves_exactly_its_files(record):
    assert {p.name for p in record.path.iterdir()} == FILES
    assert [p.name for p in record.path.parent.iterdir()] == [record.run_id]


def test_metrics_agree_with_tables_and_adapter(record, settings):
    metrics, rows = record.metrics, record.per_image
    assert metrics["run_id"] == record.run_id == record.path.name
    for evaluator, metric in (("predictor", "dice"), ("box", "iou_best")):
        shown = rows.loc[rows["evaluator"] == evaluator, metric]
        assert metrics["test"][evaluator][metric]["mean"] == pytest.approx(shown.mean())
        assert metrics["test"][evaluator][metric]["n"] == len(shown) == settings.test_limit
    assert rows.columns[0] == "evaluator"
    assert metrics["trainable_parameters"] == sum(t.numel() for t in load_file(record.adapter).values())
    assert metrics["steps"] == 2 and metrics["images_seen"] == 4
    assert metrics["peak_memory_mb"] > 0 and 0 < metrics["training_memory_mb"] <= metrics["peak_memory_mb"]
    assert not record.history.empty


def test_record_says_where_it_comes_from(record, settings):
    data, base = runs.dataset("synthetic", 0, 10), runs.base_sam("lite", settings.checkpoint, 64)
    environment = record.environment
    assert environment["base_hash"] == base.base_hash and environment["data_fingerprint"] == data.fingerprint
    assert environment["precision"] == "32-true" and environment["wall_seconds"] > 0
    assert environment["images"] == {part: len(data.subset(part)) for part in ("train", "val", "test")}
    assert Split.load(record.path / "split.json").hash == data.split.hash == environment["split_hash"]
    assert set(record.per_image["id"]) <= set(data.subset("test").ids)
    log = (record.path / "log.txt").read_text()
    assert record.run_id in log and "step 2: train_loss" in log
    assert re.search(rf"finished in [\d.]+ s, peak memory {record.metrics['peak_memory_mb']:.0f} MB", log)


def test_adapter_says_which_run_made_it_and_gives_its_numbers(record, settings):
    metadata, _ = read_adapter(record.adapter)
    assert (metadata["run_id"], metadata["base_hash"]) == (record.run_id, record.environment["base_hash"])
    assert metadata["split_hash"] == record.environment["split_hash"]
    assert metadata["metrics"]["test"] == record.metrics["test"]
    sam = copy.deepcopy(runs.base_sam("lite", settings.checkpoint, 64))
    load_adapter(sam, record.adapter)
    test = runs.dataset("synthetic", 0, 10).subset("test")
    _, rows = runs.evaluate(sam, test, record.config, "cpu")
    np.testing.assert_allclose(rows["dice"].dropna(), record.per_image["dice"].dropna(), rtol=1e-6)


def test_base_in_memory_is_not_changed_by_a_run(record, settings):
    torch.manual_seed(0)
    fresh = build_lite().state_dict()
    kept = runs.base_sam("lite", settings.checkpoint, 64).state_dict()
    assert set(fresh) == set(kept)
    resized = {"image_encoder.pos_embed"} | {k for k in fresh if fresh[k].shape != kept[k].shape}
    assert all(torch.equal(fresh[k], kept[k]) for k in set(fresh) - resized)


def test_a_finished_run_is_read_and_stays_byte_identical(record, settings, monkeypatch):
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in record.path.iterdir()}
    monkeypatch.setattr(runs, "_work", None)
    again = runs.run_one(settings, record.path.parent)
    assert again.metrics == record.metrics
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in record.path.iterdir()} == before


def test_the_same_run_gives_the_same_numbers(record, settings, tmp_path):
    torch.manual_seed(123)  # what happened before in the process does not matter
    np.random.default_rng().random()
    again = runs.run_one(settings, tmp_path)
    assert again.run_id == record.run_id and again.metrics["test"] == record.metrics["test"]
    pd.testing.assert_frame_equal(again.per_image, record.per_image)


def test_the_end_of_a_run_is_shown_unless_bars_are_unwanted(settings, tmp_path, monkeypatch, capsys):
    frozen = settings.replace(method="frozen", evaluate=("predictor",))
    for folder, quiet in (("a", ""), ("b", "1")):
        monkeypatch.setenv("TQDM_DISABLE", quiet)
        runs.run_one(frozen.replace(name="base"), tmp_path / folder)
        shown = re.search(r"^base: finished in [\d.]+ s, peak memory \d+ MB$", capsys.readouterr().err, re.MULTILINE)
        assert (shown is None) == bool(quiet)


def test_a_compiler_that_is_missing_is_named_before_anything_is_written(settings, tmp_path, monkeypatch):
    def no_compiler(*args, **kwargs):
        raise RuntimeError("no g++")

    monkeypatch.setattr(torch, "compile", no_compiler)
    blocks.check_compile.cache_clear()
    with pytest.raises(ValueError, match=r"^compile is True, .* on cpu here \(RuntimeError: no g\+\+\); install .*\.$"):
        runs.run_one(settings.replace(compile=True), tmp_path)
    assert not list(tmp_path.iterdir())
    blocks.check_compile.cache_clear()


def test_frozen_is_evaluated_and_not_trained(settings, tmp_path):
    frozen = runs.run_one(settings.replace(method="frozen", evaluate=("predictor",), compile=True), tmp_path)
    assert {p.name for p in frozen.path.iterdir()} == FILES - {"adapter.safetensors", "history.csv"}
    assert frozen.adapter is None and frozen.history.empty
    assert frozen.metrics["trainable_parameters"] == frozen.metrics["steps"] == 0
    assert 0 <= frozen.metrics["test"]["predictor"]["dice"]["mean"] <= 1


def test_a_failed_run_keeps_its_log_and_does_not_look_finished(settings, tmp_path, monkeypatch):
    def boom(*arguments, **options):
        raise FloatingPointError("the loss of batch 3 is not finite")

    monkeypatch.setattr(runs.methods.loop, "train", boom)
    with pytest.raises(RunError, match=r"'unlucky' failed \(FloatingPointError: the loss of batch 3 .*log\.txt"):
        runs.run_one(settings.replace(name="unlucky"), tmp_path)
    (failed,) = tmp_path.glob("*.failed")
    assert not list(tmp_path.glob("*.part")) and "Traceback" in (failed / "log.txt").read_text()
    with pytest.raises(ValueError, match="not a finished run"):
        read_record(failed)


def write(folder, run, value):
    """A folder that looks like a finished run."""
    folder.mkdir(exist_ok=True)
    for name, values in (("config", run.config.to_dict()), ("metrics", {"run_id": value})):
        (folder / f"{name}.json").write_text(json.dumps(values))


def counted(monkeypatch, owner, name):
    """Calls of a function, which does its work as ever."""
    true, calls = getattr(owner, name), []

    def call(*arguments, **options):
        calls.append(name)
        return true(*arguments, **options)

    monkeypatch.setattr(owner, name, call)
    return calls


@pytest.mark.parametrize("method", ["lora", "unet"])
def test_stopped_in_evaluation_it_does_not_train_again(settings, tmp_path, monkeypatch, method):
    if method == "unet":
        pytest.importorskip("segmentation_models_pytorch")
    config = settings.replace(method=method, evaluate=("predictor",))
    whole = runs.run_one(config, tmp_path / "whole")

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(runs, "evaluate", stop)
        runs.run_one(config, tmp_path)
    (part,) = tmp_path.glob("*.part")
    assert (part / "checkpoint.pt").is_file() and not (tmp_path / whole.run_id).exists()
    steps = counted(monkeypatch, torch.optim.AdamW, "step")
    record = runs.run_one(config, tmp_path)
    assert not steps and record.metrics["test"] == whole.metrics["test"]
    assert {p.name for p in tmp_path.iterdir()} == {"whole", record.run_id}  # no lock, and no folder of work
    assert {p.name for p in record.path.iterdir()} == {p.name for p in whole.path.iterdir()}
    shown = [(r.path / "log.txt").read_text().count(": train_loss") for r in (record, whole)]
    assert shown[0] == shown[1]
    assert record.environment["wall_seconds"] >= record.metrics["seconds"] > 0
    assert "earlier_seconds" not in record.metrics


def test_a_run_that_the_machine_stopped_goes_on(settings, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    config = settings.replace(evaluate=("predictor",))
    with monkeypatch.context() as patched, pytest.raises(RunError, match=r"was stopped \(OSError: .*No space left"):
        patched.setattr(runs, "evaluate", full)
        runs.run_one(config, tmp_path)
    steps = counted(monkeypatch, torch.optim.AdamW, "step")
    assert runs.run_one(config, tmp_path).metrics["steps"] == config.steps and not steps
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failed_run_starts_anew(settings, tmp_path, monkeypatch):
    config = settings.replace(evaluate=("predictor",))

    def boom(*arguments, **options):
        raise FloatingPointError("in evaluation")

    with monkeypatch.context() as patched, pytest.raises(RunError):
        patched.setattr(runs, "evaluate", boom)
        runs.run_one(config, tmp_path)
    assert not list(tmp_path.glob("*/checkpoint.pt"))
    steps = counted(monkeypatch, torch.optim.AdamW, "step")
    record = runs.run_one(config, tmp_path)
    assert len(steps) == config.steps and [p.name for p in tmp_path.iterdir()] == [record.run_id]


def test_a_run_that_another_process_does_is_waited_for_and_read(settings, tmp_path, monkeypatch):
    run, worked = runs.prepare(settings), []
    monkeypatch.setattr(runs, "_work", lambda *arguments: worked.append(1))
    code = (
        "import sys, time, filelock\n"
        "with filelock.FileLock(sys.argv[1]):\n    print('held', flush=True)\n    sys.stdin.readline()\n"
    )
    lock = tmp_path / f"{run.run_id}.lock"
    command = [sys.executable, "-c", code, str(lock)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other,
        ThreadPoolExecutor(1) as thread,
    ):
        assert other.stdout.readline() == "held\n"
        waiting = thread.submit(runs.run_one, settings, tmp_path)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.5)
        write(tmp_path / run.run_id, run, "theirs")
        other.stdin.write("\n")
        other.stdin.flush()
        assert waiting.result(timeout=60).metrics == {"run_id": "theirs"} and not worked
    assert [p.name for p in tmp_path.iterdir()] == [run.run_id]


def test_a_run_that_was_killed_once_it_was_complete_is_only_renamed(settings, tmp_path, monkeypatch):
    run = runs.prepare(settings)
    write(tmp_path / f"{run.run_id}.part", run, "complete")
    (tmp_path / f"{run.run_id}.part" / "checkpoint.pt").write_bytes(b"")
    monkeypatch.setattr(runs, "_work", None)
    assert runs.run_one(settings, tmp_path).metrics == {"run_id": "complete"}
    (left,) = tmp_path.iterdir()
    assert {p.name for p in left.iterdir()} == {"config.json", "metrics.json"}


def test_leftovers_beside_a_finished_run_are_removed(settings, tmp_path):
    run = runs.prepare(settings)
    for name in (run.run_id, f"{run.run_id}.part"):
        write(tmp_path / name, run, name)
    (tmp_path / f"{run.run_id}.lock").touch()
    assert runs.run_one(settings, tmp_path).metrics == {"run_id": run.run_id}
    assert [p.name for p in tmp_path.iterdir()] == [run.run_id]


def test_what_cannot_be_used_is_refused_before_anything_is_written(settings, tmp_path, monkeypatch):
    for wrong, message in (
        (settings.replace(data="nowhere"), "'nowhere' is no data set"),
        (settings.replace(checkpoint=str(tmp_path / "no.pth")), "does not exist"),
        (settings.replace(device="tpu"), "device is 'tpu'"),
    ):
        with pytest.raises(ValueError, match=message):
            runs.run_one(wrong, tmp_path)
    monkeypatch.setattr(runs, "check_disk", lambda folder, needed: (_ for _ in ()).throw(ValueError("full")))
    with pytest.raises(ValueError, match="full"):
        runs.run_one(settings, tmp_path)
    assert not list(tmp_path.iterdir())


def test_space_is_asked_of_the_disk_that_holds_the_folder(tmp_path):
    runs.check_disk(tmp_path / "not" / "yet" / "there", 1)
    with pytest.raises(ValueError, match=r"MB of free space and the runs need about .*--runs"):
        runs.check_disk(tmp_path / "not" / "yet", 10**18)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file is not a folder that can be written; .*--runs"):
        runs.check_disk(tmp_path / "file" / "edition", 1)


def test_space_grows_with_the_rank(settings):
    small, large = (runs.prepare(settings.replace(rank=rank)).bytes_needed for rank in (2, 2048))
    # 4 bytes, twice, of rank x (in + out) for q and v in each of the encoder's 6 blocks of width 192: once in the
    # adapter, and three times in the checkpoint
    assert large - small == 2 * (1 + 3) * 4 * (2048 - 2) * 2 * (192 + 192) * 6


@pytest.mark.slow
def test_a_killed_workers_run_is_taken_up_by_another_and_results_are_those_of_one_process(settings, tmp_path):
    pytest.importorskip("distributed")
    changes = {"steps": 24, "validate_every": 2, "dropout": 0.1, "learning_rate": 1e-2, "evaluate": ("predictor",)}
    configs = [settings.replace(name=str(seed), seed=seed, **changes) for seed in (0, 1)]
    ids = [runs.prepare(config).run_id for config in configs]
    killed = []

    def kill():
        """Kill the process that holds the lock of the first run once it has a checkpoint."""
        lock = tmp_path / f"{ids[0]}.lock"
        while not (tmp_path / f"{ids[0]}.part" / "checkpoint.pt").exists():
            time.sleep(0.01)
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if str(lock) in [file.path for file in process.open_files()]:
                    process.kill()
                    killed.append(process.pid)

    watch = threading.Thread(target=kill, daemon=True)
    watch.start()
    jobs = [(config.name, (config, tmp_path)) for config in configs]
    results, errors = execute(runs.run_one, jobs, workers=2)
    watch.join(10)
    assert len(killed) == 1 and not errors and [results[c.name].run_id for c in configs] == ids
    log = (tmp_path / ids[0] / "log.txt").read_text()
    step = int(re.search(r"goes on from its checkpoint after step (\d+) of 24", log).group(1))
    assert 2 <= step < 24
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(ids)
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))  # as many as each worker had
    try:
        alone = [runs.run_one(config, tmp_path / "alone") for config in configs[::-1]][::-1]
    finally:
        torch.set_num_threads(threads)
    for record, expected in zip((results[c.name] for c in configs), alone):
        for part in ("val", "test"):  # as text, where one NaN is as good as another
            assert json.dumps(record.metrics[part]) == json.dumps(expected.metrics[part])
        assert same(load_file(record.adapter), load_file(expected.adapter))
        histories = [r.history.drop(columns=["seconds", "images_per_s"]) for r in (record, expected)]
        pd.testing.assert_frame_equal(*histories, check_exact=True)


# ------------------------------------------------------------------------------------------------- other methods
def test_a_run_says_which_rank_its_adapter_uses(record):
    spectrum = record.metrics["spectrum"]
    tensors = load_file(record.adapter)
    assert {row["matrix"].rpartition(".")[2] for row in spectrum} == {"q", "v"} and len(spectrum) == len(tensors) // 2
    for row in spectrum:
        path, _, name = row["matrix"].rpartition(".")
        update = tensors[f"{path}.B_{name}"] @ tensors[f"{path}.A_{name}"]
        assert row["norm"] == pytest.approx(float(update.norm()), rel=1e-4, abs=1e-9)
        assert 0 <= row["rank_90"] <= row["rank_99"] <= 2


@pytest.mark.parametrize("method", ["decoder", "lora_decoder", "full", "unet", "unet_watershed", "otsu", "watershed"])
def test_every_other_method_is_a_run_like_any(method, settings, tmp_path):
    if method in ("unet", "unet_watershed"):
        pytest.importorskip("segmentation_models_pytorch")
    run = runs.run_one(settings.replace(method=method, evaluate=("predictor", "generator", "guided")), tmp_path)
    files = {
        "config.json",
        "environment.json",
        "log.txt",
        "metrics.json",
        "per_image.csv",
        "particles.csv",
        "split.json",
    }
    if method in ("decoder", "lora_decoder", "full"):
        files |= {"annotations.csv", "guided_particles.csv"}
    if method not in ("otsu", "watershed"):
        files |= {"history.csv", "weights.safetensors"}
        assert run.metrics["steps"] == 2 and run.metrics["trainable_parameters"] > 0
    else:
        assert run.metrics["steps"] == run.metrics["trainable_parameters"] == 0
    assert {path.name for path in run.path.iterdir()} >= files - {
        "annotations.csv",
        "particles.csv",
        "guided_particles.csv",
    }
    assert {path.name for path in run.path.iterdir()} <= files
    assert set(run.metrics["test"]) == {"predictor", "generator", "guided"} == set(run.per_image["evaluator"])
    assert 0 <= run.metrics["test"]["predictor"]["dice"]["mean"] <= 1
    assert run.adapter is None
    assert ("training_memory_mb" in run.metrics) == (method not in ("otsu", "watershed"))
    if method in UNRATED:
        tried = {"watershed": baselines.DISTANCES, "unet_watershed": unet.SEEDS}.get(method, (None,))
        chosen = run.metrics["chosen"]
        assert chosen["setting"] in tried and chosen["min_area"] in baselines.AREAS
        same = run.per_image.drop(columns="evaluator").groupby(run.per_image["evaluator"])
        pd.testing.assert_frame_equal(*(same.get_group(e).reset_index(drop=True) for e in ("generator", "guided")))
    else:
        assert run.metrics["guided"]["score_thresh"] in THRESHOLDS


def test_few_labels_are_a_part_of_more(settings):
    data = runs.dataset("synthetic", 0, 10)
    drawn = [set(runs.training_images(data, settings.replace(train_limit=n)).ids) for n in (1, 3, 99, None)]
    assert [len(ids) for ids in drawn[:2]] == [1, 3] and drawn[0] < drawn[1] < drawn[2]
    assert drawn[2] == drawn[3] == set(data.subset("train").ids)


def test_an_adapter_is_cut_down_and_whole_again_and_judged_on_other_data(settings, tmp_path):
    other = settings.replace(truncate=(1, 2), transfer=("synthetic", "nowhere"), evaluate=("predictor",))
    run = runs.run_one(other, tmp_path)
    whole = run.metrics["test"]["predictor"]["dice"]["mean"]
    assert run.metrics["truncated"]["2"]["mean"] == pytest.approx(whole, abs=1e-3)  # its rank is 2
    assert "nowhere" in run.metrics["transfer"]["nowhere"]
    rows = pd.read_csv(run.path / "transfer.csv")
    assert set(rows["data"]) == {"synthetic"}
    assert run.metrics["transfer"]["synthetic"]["predictor"]["dice"]["mean"] == pytest.approx(rows["dice"].mean())
    sam = copy.deepcopy(runs.base_sam("lite", settings.checkpoint, 64))
    load_adapter(sam, run.adapter)
    test = runs.dataset("synthetic", 0, 10).subset("test")
    assert runs.evaluate(sam, test, run.config, "cpu")[0]["predictor"]["dice"]["mean"] == pytest.approx(whole, rel=1e-6)


def test_other_training_data_make_another_run(settings, tmp_path):
    here = runs.prepare(settings)
    there = runs.prepare(settings.replace(train_data="synthetic"))
    assert here.run_id != there.run_id and here.taught is here.data
    assert len(there.taught) > len(there.data) == 10
