"""lorasam verify: is an adapter whole, and does a run give again what its record says?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

MARKS = {True: "ok", False: "DIFFERS", None: "-"}


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(prog="lorasam verify", description=__doc__)
    command.add_argument("what", metavar="ADAPTER|RUN", help="an adapter's file, or emps, which ships; or a run's "
                         "folder or id, local or published, which is done again in as long as it took")  # fmt: skip
    command.add_argument("--checkpoint", help="a local file of the base model's weights, for an adapter")
    command.add_argument("--device", default="cpu", help="for an adapter: auto, cpu, cuda or mps")
    command.add_argument("--runs", default="runs", help="folder of all editions, for the id of a run")
    return command


def main(arguments: Sequence[str]) -> None:
    """The command, a line a check; exit status 1 where something differs."""
    args = parser().parse_args(arguments)
    place = Path(args.what)

    from lorasam_core.models.lora.files import SHIPPED  # imports torch: options are checked first

    if place.is_file() or (SHIPPED / f"{args.what}.safetensors").is_file():
        differs = _adapter(args.what, args.checkpoint, args.device)
    elif place.suffix == ".safetensors":
        raise ValueError(f"{place} does not exist; give an adapter's file, or a run's folder or id.")
    elif place.is_dir():
        place = place.resolve()
        differs = _run(place.name, str(place.parent.parent))
    else:
        differs = _run(args.what, args.runs)
    if differs:
        sys.exit(1)


def _adapter(name: str, checkpoint: str | None, device: str) -> bool:
    from lorasam_core.experiments.verify import verify_adapter
    from lorasam_core.models.lora import adapter_path

    differs = False
    for check in verify_adapter(adapter_path(name), checkpoint, device):
        print(f"{MARKS[check.holds]:8}{check.name:9}{check.found}", flush=True)
        differs |= check.holds is not None and not check.holds
    return differs


def _run(run_id: str, runs: str) -> bool:
    from lorasam_core.experiments.executor import RunError
    from lorasam_core.experiments.rerun import TOLERANCE, rerun

    try:
        table = rerun(run_id, runs)
    except RunError as error:
        raise ValueError(str(error)) from error
    print(table.to_string(index=False))
    apart = table[table["within"] == "no"]
    for _, row in apart.iterrows():
        print(f"{MARKS[False]:8}{row['metric']}: {row['new']:.4f}, and {row['old']:.4f} in the record")
    if apart.empty:
        print(f"{MARKS[True]:8}every metric lies within {TOLERANCE} of the record's")
    return not apart.empty
