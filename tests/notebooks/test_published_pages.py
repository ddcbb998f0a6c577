"""The pages of results, executed from the published records alone: no micrographs, no training, as in a fresh clone."""

import re
import warnings

import pytest

from lorasam_core.experiments.records import published_editions
from lorasam_core.report import figures
from lorasam_core.report.pages import edition_pages, filled, read_notebook

RESULTS = (  # the pages that show runs; the others need none, or a model and much time
    "train", "rank", "learning_rate", "batch_size", "rivals", "labels", "prompts", "size_errors", "failures",
)  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Page name -> (what it shows and says, its warnings), of the edition that was published last."""
    if not (editions := published_editions()):
        pytest.skip("no edition is published yet")
    folder, done = tmp_path_factory.mktemp("published"), {}
    pages = [page for page in edition_pages(editions[0]) if page.name in RESULTS]
    assert len(pages) == len(RESULTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORASAM_DATA", str(folder / "no micrographs"))
        patch.setenv("LORASAM_RECORDS_ONLY", "1")
        patch.setenv("XDG_CACHE_HOME", str(folder / "empty"))
        patch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing is downloaded where there is a network
        patch.setattr(figures, "output_folder", lambda edition: folder)
        for page in pages:
            shown: list[str] = []
            patch.setattr(figures, "show", lambda data, book, shown=shown: shown.append(book or str(data)))
            patch.setattr(figures, "show_markdown", shown.append)
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("default")
                run(page)
            done[page.name] = shown, [str(w.message) for w in warned if issubclass(w.category, UserWarning)]
    return done


def run(page):
    """The cells of a page, in this process, with its parameters."""
    cells = [cell for cell in filled(read_notebook(page.notebook)).cells if cell.cell_type == "code"]
    space: dict = {}
    for cell in cells:
        exec(compile(cell.source, page.name, "exec"), space)
        if "parameters" in cell.metadata.get("tags", []):
            space |= page.parameters


def test_no_page_warns(executed):
    assert {name: warned for name, (_, warned) in executed.items() if warned} == {}


def test_no_sentence_holds_what_is_not_a_number(executed):
    for name, (shown, _) in executed.items():
        assert shown and not re.search(r"\b(nan|None|inf)\b", " ".join(shown)), name


def test_pictures_without_micrographs_say_so(executed):
    assert "Generated particles stand in" in " ".join(executed["rank"][0])
