"""A full disk, a network that fails, no memory, Ctrl-C: what was done is kept, and one sentence says what to do."""

from __future__ import annotations

import hashlib
import http.server
import io
import re
import resource
import threading
from contextlib import contextmanager

import pooch
import pytest
import torch

from lorasam_core import cli
from lorasam_core.data import DataError, emps
from lorasam_core.experiments.outputs import alone
from lorasam_core.models import sam as models
from lorasam_core.training import checkpoint
from tests.experiments.test_segment import by_threshold, segment
from tests.test_damage import micrographs
from tests.tiny_sam import tiny_sam


def outcome(out):
    """What `segment` wrote, but for times."""
    files = [*out.rglob("*.tif"), *out.rglob("*.png"), out / "particles.csv"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


@contextmanager
def full_disk(size):
    """No file may grow beyond this many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def command(monkeypatch, work):
    """The end of the command `segment`, whose work is another."""
    monkeypatch.setattr("lorasam_core.commands.segment.main", lambda rest: work())
    with pytest.raises(SystemExit) as ended:
        cli.main(["segment"])
    return ended.value.code


@pytest.mark.parametrize("size", [0, 400, 800, 1500])
def test_segment_on_a_full_disk_goes_on_when_there_is_space(tmp_path, monkeypatch, size):
    files, out = micrographs(tmp_path), tmp_path / "out"
    with full_disk(size):
        said = command(monkeypatch, lambda: segment(files, out))
    assert said.startswith("error: ") and "free some space" in said and said.count("\n") == 0
    assert not [path for path in out.rglob("*") if "part" in path.name]
    segment(files, out)
    segment(files, tmp_path / "whole")
    assert outcome(out) == outcome(tmp_path / "whole")


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_one_before(tmp_path):
    state = {"settings": 1, "weights": torch.zeros(10)}
    checkpoint.write(tmp_path, state)
    before = (tmp_path / checkpoint.FILE).read_bytes()
    with full_disk(3000), pytest.raises(OSError, match=r"checkpoint\.pt could not be written .*; free some space"):
        checkpoint.write(tmp_path, {"weights": torch.zeros(10**4)})
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FILE]
    assert (tmp_path / checkpoint.FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(13, "Permission denied", "/x/out"), "/x/out could not be written .*a folder that can be"),
        (OSError(30, "Read-only file system", "/x/out"), "/x/out could not be written .*choose a folder"),
        (OSError(28, "No space left on device"), "a file could not be written .*; free some space, .*, and call again"),
        (MemoryError(), "not enough memory; close other programs"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"),
            "not enough memory; close other programs",
        ),
    ],
)
def test_the_command_says_what_to_do(monkeypatch, error, says):
    def fail():
        raise error

    assert re.search(f"^error: .*{says}", command(monkeypatch, fail))


def test_an_error_of_the_program_is_not_called_one_of_memory(monkeypatch):
    def fail(rest):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("lorasam_core.commands.segment.main", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        cli.main(["segment"])


def test_ctrl_c_keeps_what_was_done_and_lets_go_of_the_folder(tmp_path, monkeypatch, capsys):
    files, out, asked = micrographs(tmp_path), tmp_path / "out", []

    def interrupted(image):
        asked.append(image)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return by_threshold(image)

    assert command(monkeypatch, lambda: segment(files, out, by=interrupted)) == 130
    assert "what was done is kept" in capsys.readouterr().err
    with alone(out):  # as the next cell of a notebook would
        assert (out / "state" / "a.json").is_file() and not (out / "state" / "b.json").exists()
    segment(files, out, by=interrupted)
    segment(files, tmp_path / "whole")
    assert len(asked) == 3 and outcome(out) == outcome(tmp_path / "whole")


def tiny_checkpoint():
    content = io.BytesIO()
    torch.save(tiny_sam().state_dict(), content)
    return content.getvalue()


WHOLE = tiny_checkpoint()


class Faulty(http.server.BaseHTTPRequestHandler):
    """Answers as its server's `way` says."""

    def do_GET(self):
        way = self.server.way
        self.send_response(503 if way == "busy" else 200)
        self.send_header("Content-Length", str(len(WHOLE)))
        self.end_headers()
        if way == "wrong":
            self.wfile.write(bytes(len(WHOLE)))
        elif way in ("stalls", "half"):
            self.wfile.write(WHOLE[: len(WHOLE) // 2])
            self.wfile.flush()
            if way == "stalls":
                self.server.over.wait(20)
        else:
            self.wfile.write(WHOLE)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of checkpoints and archives on this machine, an empty cache, and a second of patience."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Faulty)
    server.way, server.over = "", threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("LORASAM_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(models, "SOURCE", address)
    monkeypatch.setattr(models, "TIMEOUT", 1.0)
    monkeypatch.setattr(emps, "TIMEOUT", 1.0)
    monkeypatch.setattr(emps, "URL", address + "emps.zip")
    known = "sha256:" + hashlib.sha256(WHOLE).hexdigest()
    monkeypatch.setitem(models.CHECKPOINTS, "vit_b", ("sam_vit_b_01ec64.pth", known))
    monkeypatch.setitem(models.sam_model_registry, "vit_b", lambda: tiny_sam(seed=1))
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("way", ["stalls", "half", "wrong", "busy"])
def test_a_download_that_fails_leaves_nothing_and_is_done_again(server, tmp_path, way):
    server.way = way
    with pytest.raises(ValueError, match=r"sam_vit_b_01ec64\.pth could not be downloaded \(.+\); go online") as error:
        models.load_sam("vit_b")
    assert "\n" not in str(error.value) and not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    server.way = ""
    assert models.load_sam("vit_b").base_hash == models.hash_base(tiny_sam())


@pytest.mark.parametrize("way", ["stalls", "half", "wrong", "busy"])
def test_an_archive_that_fails_leaves_nothing(server, tmp_path, way):
    server.way = way
    with pytest.raises(DataError, match=r"EMPS could not be downloaded from .*; go online"):
        emps.find_emps()
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
