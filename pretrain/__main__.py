"""nox -s pretrain."""

import argparse
from pathlib import Path

from pretrain.recipe import pretrain

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default=Path("runs/pretrain"))
parser.add_argument("--real", type=Path)
parser.add_argument("--device", default="auto")
args = parser.parse_args()
pretrain(args.out, args.device, real=args.real)
