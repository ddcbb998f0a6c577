"""The command `lorasam`: each of its commands is the `main` of a module of its own, imported when it is asked for."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from lorasam_core.errors import out_of_memory

COMMANDS = {
    "check": ("commands.check", "look at a folder of micrographs: what can be used, and what to do about the rest"),
    "segment": ("commands.segment", "masks, overlays and a table of particles of micrographs; no labels needed"),
    "draft": ("commands.draft", "drafts of labels for you to correct, a number on every particle"),
    "adapt": ("commands.adapt", "train an adapter on your labelled micrographs, from one image on"),
    "sizes": ("commands.sizes", "size distributions of masks, with intervals and border correction"),
    "export": ("commands.export", "an adapter merged into a checkpoint, as ONNX, or as it is, with a card"),
    "verify": ("commands.verify", "is an adapter whole, does a run give again what its record says"),
    "convert": ("commands.convert", "labels of a folder as COCO, ROIs of ImageJ, labelme or TIFF"),
    "experiments": ("experiments.sweeps", "make an edition: the runs that are missing, the pages, the book"),
    "book": ("report.pages", "build the book from existing records"),
    "publish": (
        "experiments.publish",
        "put a finished edition's records into book/results, its main table into README",
    ),
}  # name: (module of lorasam_core, what it does)
SPACE, PERMISSION = "free some space, or choose another folder", "choose a folder that can be written"
REMEDIES = {
    errno.ENOSPC: SPACE, errno.EDQUOT: SPACE, errno.EFBIG: SPACE,
    errno.EACCES: PERMISSION, errno.EPERM: PERMISSION, errno.EROFS: PERMISSION,
}  # fmt: skip
UNWRITTEN = "{place} could not be written ({reason}); {remedy}, and call again: what was done is kept."
USAGE = "\n".join(
    ["usage: lorasam COMMAND [options]", "", *(f"  {name:12} {what}" for name, (_, what) in COMMANDS.items()), "",
     "lorasam COMMAND --help lists the options of a command; lorasam --version its version."]
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; status 2 for a command that there is not, 1 with one sentence for input that cannot be used."""
    command, *rest = (sys.argv[1:] if arguments is None else list(arguments)) or [""]
    if command in ("--version", "-V"):
        print(version("lorasam"))
    elif command in ("", "--help", "-h"):
        print(USAGE)
    elif command in COMMANDS:
        try:
            import_module(f"lorasam_core.{COMMANDS[command][0]}").main(rest)
        except KeyboardInterrupt:
            print("stopped; what was done is kept, and the same command goes on.", file=sys.stderr)
            sys.exit(130)
        except OSError as error:
            remedy, place = REMEDIES.get(error.errno or 0), error.filename or "a file"
            said = UNWRITTEN.format(place=place, reason=error.strerror, remedy=remedy) if remedy else error
            sys.exit(f"error: {said}")
        except ValueError as error:
            sys.exit(f"error: {error}")
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            sys.exit("error: there is not enough memory; close other programs, or give smaller tiles or batches.")
    else:
        print(f"error: there is no command {command!r}.\n\n{USAGE}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
