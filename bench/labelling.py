"""What labelling costs: a simulated user corrects nothing, the frozen draft and the adapted one, image by image.

`python -m bench.labelling --data emps --images 5 --adapter 4=FILE`: validation images, evenly spaced, of a data set
that `load_dataset` knows, drafted by the base and by an adapter that has learnt from four images; prints the means, and
adds a row an image and start to the table of --out, in place of those of the same images and starts.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from bench.simulated_user import simulate
from lorasam_core.data import Sample, load_dataset
from lorasam_core.masks.clicks import Clicks
from lorasam_core.masks.edit import Labelling
from lorasam_core.masks.segmenter import Segmenter

SHOWN = ["particles", "drafted", "actions", "corrections", "remove", "merge", "split", "add", "box", "refine", "undo",
         "clicks", "given_up", "f1_before", "f1"]  # fmt: skip


def efforts(samples: Sequence[Sample], adapters: Mapping[str, str | None], device: str = "auto") -> pd.DataFrame:
    """A row an image and start: drafts by name of their adapter, a file; None: of the base, and nothing beside it.

    Columns: id, group, start ("nothing", or the draft's name), labelled (images that the adapter has learnt from, where
    that is its name; 0: the base), particles, drafted, and those of `simulated_user.Effort`.
    """
    rows = []
    for name, adapter in adapters.items():
        segmenter = Segmenter(adapter, device=device)
        clicks = Clicks(segmenter)
        labelled = 0 if adapter is None else int(name) if name.isdigit() else None
        for sample in tqdm(samples, name, unit="image"):
            starts: dict[str, np.ndarray | None] = {} if adapter else {"nothing": None}
            starts[name] = segmenter(sample.image).labels
            for start, labels in starts.items():
                work = Labelling(sample.image, labels, clicks)
                drafted = len(work.ids)
                effort = simulate(work, sample.labels)
                if not np.array_equal(Labelling.replay(sample.image, work.log).labels, work.labels):
                    raise RuntimeError(f"the log of {sample.id} does not replay to its labels.")
                particles = len(np.unique(sample.labels[sample.labels > 0]))
                row = {"id": sample.id, "group": sample.group, "start": start, "labelled": labelled}
                rows.append(row | {"particles": particles, "drafted": drafted} | effort.row())
    return pd.DataFrame(rows)


def named(adapters: Sequence[str]) -> dict[str, str | None]:
    """Adapters by name: NAME=FILE, or the stem of a file; the base first, as "frozen"."""
    found: dict[str, str | None] = {"frozen": None}
    for text in adapters:
        name, _, file = text.rpartition("=")
        found[name or Path(file).stem] = file
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.labelling", description=__doc__)
    parser.add_argument("--data", default="emps", help="a data set, whose validation images are labelled")
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--adapter", nargs="*", default=["emps"], help="files, ones that ship, or IMAGES=FILE")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs") / "bench" / "labelling.csv")
    args = parser.parse_args(arguments)
    images = load_dataset(args.data).subset("val")
    chosen = np.unique(np.linspace(0, len(images) - 1, args.images).round().astype(int))
    table = efforts([images[int(k)] for k in chosen], named(args.adapter), args.device).assign(data=args.data)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.out.exists():
        table = pd.concat([pd.read_csv(args.out), table]).drop_duplicates(["data", "id", "start"], keep="last")
    table.to_csv(args.out, index=False)
    print(table.groupby(["data", "start"], sort=False)[SHOWN].mean().round(2).T.to_string())


if __name__ == "__main__":
    main()
