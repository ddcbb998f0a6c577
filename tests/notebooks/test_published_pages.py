"""The pages of results, executed from the published records alone: no micrographs, no training, as in a fresh clone."""

import json
import re

import matplotlib
import pytest

from lorasam_core.experiments.records import published_editions
from lorasam_core.report.pages import edition_pages, execute_pages

RESULTS = (  # the pages that show runs; the others need none, or a model and much time
    "train", "rank", "learning_rate", "batch_size", "rivals", "labels", "prompts", "sizes", "failures",
)  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Page name -> notebook, of the edition that was published last."""
    if not (editions := published_editions()):
        pytest.skip("no edition is published yet")
    folder = tmp_path_factory.mktemp("published")
    pages = [page for page in edition_pages(editions[0]) if page.name in RESULTS]
    assert len(pages) == len(RESULTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORASAM_DATA", str(folder / "no micrographs"))
        patch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())
        patch.setenv("XDG_CACHE_HOME", str(folder / "empty"))
        patch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing is downloaded where there is a network
        files, failures = execute_pages(pages, editions[0], workers=2, runs=folder)
    assert failures == []
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}


def outputs(notebook):
    return [output for cell in notebook["cells"] for output in cell.get("outputs", [])]


def test_no_page_warns(executed):
    for name, notebook in executed.items():
        streams = [output for output in outputs(notebook) if output["output_type"] == "stream"]
        assert [s["text"] for s in streams if s["name"] == "stderr"] == [], name


def test_no_sentence_holds_what_is_not_a_number(executed):
    for name, notebook in executed.items():
        said = ["".join(o["data"].get("text/markdown", "")) for o in outputs(notebook) if "data" in o]
        assert said and not re.search(r"\b(nan|None|inf)\b", " ".join(said)), name


def test_pictures_without_micrographs_say_so(executed):
    assert "Generated particles stand in" in json.dumps(executed["rank"])
