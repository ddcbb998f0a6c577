"""What labelling costs: a simulated user corrects nothing, the frozen draft and the adapted one, image by image.

`python -m bench.labelling --data emps --images 5`: validation images, evenly spaced, of a data set that `load_dataset`
knows; prints the means, and writes a row an image and start.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
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


def efforts(samples: Sequence[Sample], adapters: Sequence[str | None], device: str = "auto") -> pd.DataFrame:
    """A row for each image and start: from nothing and from the draft of the base, then from each adapter's draft."""
    rows = []
    for adapter in adapters:
        segmenter = Segmenter(adapter, device=device)
        clicks = Clicks(segmenter)
        for sample in tqdm(samples, adapter or "frozen", unit="image"):
            starts: dict[str, np.ndarray | None] = {} if adapter else {"nothing": None}
            starts[f"draft: {Path(adapter).stem if adapter else 'frozen'}"] = segmenter(sample.image).labels
            for start, labels in starts.items():
                work = Labelling(sample.image, labels, clicks)
                drafted = len(work.ids)
                effort = simulate(work, sample.labels)
                if not np.array_equal(Labelling.replay(sample.image, work.log).labels, work.labels):
                    raise RuntimeError(f"the log of {sample.id} does not replay to its labels.")
                particles = len(np.unique(sample.labels[sample.labels > 0]))
                rows.append(
                    {"id": sample.id, "start": start, "particles": particles, "drafted": drafted} | effort.row()
                )
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.labelling", description=__doc__)
    parser.add_argument("--data", default="emps", help="a data set, whose validation images are labelled")
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--adapter", nargs="*", default=["emps"], help="files, or names of those that ship")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs") / "bench" / "labelling.csv")
    args = parser.parse_args(arguments)
    images = load_dataset(args.data).subset("val")
    chosen = np.unique(np.linspace(0, len(images) - 1, args.images).round().astype(int))
    table = efforts([images[int(k)] for k in chosen], [None, *args.adapter], args.device)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out, index=False)
    print(table.groupby("start", sort=False)[SHOWN].mean().round(2).T.to_string())


if __name__ == "__main__":
    main()
