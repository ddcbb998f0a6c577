"""lorasam export: an adapter for other tools: merged into a checkpoint, as ONNX, or as it is, each with a card."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorasam_core.experiments.outputs import sha256

FORMS = ("checkpoint", "onnx", "adapter")
CARD = "card.md"
USES = {
    "checkpoint": "segment-anything loads {file}: sam_model_registry[\"{model}\"](checkpoint=\"{file}\").",
    "lite": "No stock SAM checkpoint: lorasam_core.models.sam.load_sam(\"lite\", \"{file}\") loads {file}.",
    "onnx": "Give encoder.onnx `input_image`, float32 (h, w, 3), RGB from 0 to 255, the longest side {image_size} "
            "pixels, and decoder.onnx the embedding and prompts, as segment-anything's own ONNX decoder takes them.",
    "adapter": "lorasam segment FOLDER --out RESULTS --adapter {file}",
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(prog="lorasam export", description=__doc__)
    command.add_argument("adapter", nargs="?", metavar="ADAPTER", help="a file, or emps, which ships; without one the "
                         "base model as it is, as ONNX")  # fmt: skip
    command.add_argument("--to", choices=FORMS, required=True,
                         help="checkpoint: merged, in the base's own layout, which is stock SAM for vit_b, vit_l and "
                         "vit_h; onnx: encoder.onnx and decoder.onnx; adapter: the file as it is")  # fmt: skip
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for the files and their card")
    command.add_argument("--model", help="base model, where no adapter names it: lite, vit_b, vit_l or vit_h")
    command.add_argument("--checkpoint", help="a local file of the base model's weights")
    return command


def main(arguments: Sequence[str]) -> None:
    """The command; raises ValueError, with one sentence, for what cannot be exported, and never overwrites a file."""
    args = parser().parse_args(arguments)
    if args.adapter is None and args.to != "onnx":
        raise ValueError(f"there is no adapter for --to {args.to}; name one, or emps, which ships.")

    from lorasam_core.models.lora import adapter_path, read_adapter  # imports torch: options are checked first

    path = None if args.adapter is None else adapter_path(args.adapter)
    metadata = {} if path is None else read_adapter(path)[0]
    model = str(metadata.get("base_name", args.model or "lite"))
    if args.model not in (None, model):
        raise ValueError(f"--model is {args.model}, and {path} was made for {model}; leave --model out.")
    stem = model if path is None else path.stem
    names = {
        "checkpoint": [f"{stem}.pth"],
        "onnx": ["encoder.onnx", "decoder.onnx"],
        "adapter": [f"{stem}.safetensors"],
    }
    files = [args.out / name for name in names[args.to]]
    for file in (*files, args.out / CARD):
        if file.exists():
            raise ValueError(f"{file} exists; choose another folder, or delete it.")
    base = _write(args.to, files, model, path, args.checkpoint, metadata)
    use = USES["lite" if args.to == "checkpoint" and model == "lite" else args.to]
    use = use.format(file=files[0].name, model=model, image_size=base["image_size"])
    (args.out / CARD).write_text(card(files, base, path, metadata, use), encoding="utf-8")
    print(f"{args.out}: {', '.join(file.name for file in files)}, {CARD}")
    print(use)


def _write(
    form: str, files: Sequence[Path], model: str, path: Path | None, checkpoint: str | None, metadata: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Write the files; returns name, hash and input size of the base."""
    from lorasam_core.models.lora import export_checkpoint, load_adapter
    from lorasam_core.models.sam import load_sam

    files[0].parent.mkdir(parents=True, exist_ok=True)
    if form == "adapter" and path is not None:
        shutil.copyfile(path, files[0])
        return {key: metadata.get(key) for key in ("base_name", "base_hash", "base_checkpoint", "image_size")}
    sam = load_sam(model, checkpoint, metadata.get("image_size"))
    if path is not None:
        load_adapter(sam, path)
    if form == "checkpoint":
        export_checkpoint(sam, files[0])
    else:
        from lorasam_core.models.export import export_onnx

        stated = {} if path is None else {"adapter": path.name, "adapter_sha256": sha256(path)}
        export_onnx(sam, files[0].parent, **stated)
    return {"base_name": model, "base_hash": sam.base_hash, "base_checkpoint": sam.base_checkpoint,
            "image_size": sam.image_encoder.img_size}  # fmt: skip


def card(
    files: Sequence[Path], base: Mapping[str, Any], path: Path | None, metadata: Mapping[str, Any], use: str
) -> str:
    """Markdown: what the files are and how they are used, base and hashes, then training and measures as JSON."""
    rows = [(file.name, f"{file.stat().st_size:,} bytes, SHA-256 {sha256(file)}") for file in files]
    rows.append(("base", f"{base['base_name']}, SHA-256 of its weights {base['base_hash']}"))
    if given := base["base_checkpoint"]:
        rows.append(("base's file", f"{given['file']}, SHA-256 {given['sha256']}"))
    rows.append(("input", f"{base['image_size']} pixels a side"))
    if path is not None:
        rows.append(("adapter", f"{path.name}, SHA-256 {sha256(path)}"))
        rows.append(("LoRA", f"rank {metadata['rank']}, alpha {metadata['alpha']:g}, scaling {metadata['scaling']}, "
                     f"targets {', '.join(metadata['targets'])}"))  # fmt: skip
    known = {key: metadata[key] for key in ("run_id", "metrics", "segment", "card") if key in metadata}
    lines = [f"# {files[0].stem if path is None else path.stem}", "", use, "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows]
    if known:
        lines += ["", "## Use, training and measures", "", "```json", json.dumps(known, indent=1), "```"]
    return "\n".join(lines) + "\n"
