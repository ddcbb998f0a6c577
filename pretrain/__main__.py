"""nox -s pretrain: train (or resume), measure, write the weights, their card and curve, and print their hash."""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from lorasam_core.models.devices import autocast, device_name, resolve_device, resolve_precision
from lorasam_core.models.lora import hash_base
from lorasam_core.models.lora.files import SHIPPED
from lorasam_core.models.sam import WEIGHTS, save_weights
from pretrain import adapter, measure
from pretrain.heaps import HEAPS_VERSION
from pretrain.real import find_real
from pretrain.recipe import PHASES, TAKEN_UP, Phase, pretrain
from pretrain.scenes import SCENES_VERSION


def main() -> None:
    """The command; see the module."""
    parser = argparse.ArgumentParser(prog="nox -s pretrain --", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/pretrain"), help="state and log; resumed when there")
    parser.add_argument("--begin", type=Path, help="weights to go on from, their card beside them, where no state is")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="where the weights go; the card lies beside them")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--real", type=Path, help="the folder of real pictures; else they are looked for and downloaded"
    )
    parser.add_argument("--steps", type=int, nargs=2, default=[p.steps for p in PHASES], metavar=("WINDOWS", "FRAMES"))
    parser.add_argument("--workers", type=int, default=1, help="processes that make the windows")
    parser.add_argument("--scenes", type=int, default=measure.SCENES, help="held-out scenes to measure on")
    parser.add_argument(
        "--part", default="test", choices=("val", "test"), help="of the other data; test once, at the end"
    )
    parser.add_argument("--data", nargs="*", default=list(measure.DATA), choices=measure.DATA, help="to measure on")
    parser.add_argument("--adapter", action="store_true",
                        help="train emps, the adapter that ships, instead, and write it over the packaged one; "
                        "of the other options only --out and --device count")  # fmt: skip
    args = parser.parse_args()
    if args.adapter:
        adapter.make(args.out / "adapter", SHIPPED / "emps.safetensors", args.device)
        return
    phases = tuple(Phase(p.name, p.side, p.batch, n) for p, n in zip(PHASES, args.steps, strict=True))
    device, real = resolve_device(args.device), find_real(args.real)
    sam = pretrain(args.out, device, phases, workers=args.workers, real=real, begin=args.begin)
    sam.load_state_dict({name: tensor.half().float() for name, tensor in sam.state_dict().items()})  # as in the file
    taken_up = args.out / TAKEN_UP
    before = json.loads(taken_up.read_text(encoding="utf-8")) if taken_up.exists() else {}
    base_hash, precision = hash_base(sam), resolve_precision("auto", device)
    measured = measure.measure(
        sam, args.out / f"measured-{base_hash[:12]}", scenes=args.scenes, data=args.data, part=args.part,
        autocast=lambda: autocast(precision, device),
    )  # fmt: skip
    history = pd.read_csv(args.out / "history.csv")
    card: dict[str, Any] = {
        "phases": [{"name": p.name, "side": p.side, "batch": p.batch, "steps": p.steps} for p in phases],
        "versions": {"scenes": SCENES_VERSION, "heaps": HEAPS_VERSION},
        "real": 0 if real is None else sum(1 for _ in (real / "images").iterdir()),
        "hours": round(before.get("hours", 0.0) + elapsed(history["seconds"]) / 3600, 2), "device": device_name(device),
        "date": date.today().isoformat(), "part": args.part, "measures": measured,
    }  # fmt: skip
    if before:  # whose optimizer was lost
        steps = [phase["steps"] for phase in before["phases"]]
        card["warm_start"] = {"weights_sha256": before["weights_sha256"], "steps": steps}
    digest = save_weights(sam, args.weights, {key: json.dumps(value) for key, value in card.items()})
    text = json.dumps({"weights_sha256": digest, "base_hash": base_hash} | card, indent=1)
    args.weights.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    taken = history["seconds"].isna()  # rows of the weights that were taken up have been thinned out already
    curve = pd.concat([history[taken], history[~taken].iloc[::5]]).drop(columns=["seconds", "images_per_s"]).round(4)
    curve.to_csv(args.weights.with_suffix(".csv"), index=False)
    print(f"{args.weights}: SHA-256 {digest}; write it into WEIGHTS_SHA256 of lorasam_core/models/sam.py.")


def elapsed(seconds: pd.Series) -> float:
    """Time of training, from a column that starts at zero with every phase and every time a run is taken up."""
    passed = seconds.diff()
    return float(passed.where(passed > 0, seconds).sum())


if __name__ == "__main__":
    main()
