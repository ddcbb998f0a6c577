"""The command `lorasam`: experiments, the book, publishing. Each is a thin door to a function of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

Command = Callable[[Sequence[str]], None]


def _experiments(arguments: Sequence[str]) -> None:
    from lorasam_core.experiments.sweeps import main

    main(arguments)


def _book(arguments: Sequence[str]) -> None:
    from lorasam_core.report.pages import main

    main(arguments)


def _publish(arguments: Sequence[str]) -> None:
    from lorasam_core.experiments.publish import main

    main(arguments)


COMMANDS: dict[str, tuple[Command, str]] = {
    "experiments": (_experiments, "make an edition: the runs that are missing, the pages, the book"),
    "book": (_book, "build the book from existing records"),
    "publish": (_publish, "put a finished edition's records into book/results, its main table into the README"),
}
USAGE = "\n".join(
    ["usage: lorasam COMMAND [options]", "", *(f"  {name:12} {what}" for name, (_, what) in COMMANDS.items()), "",
     "lorasam COMMAND --help lists the options of a command; lorasam --version its version."]
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits with status 2 for a command that there is not."""
    command, *rest = (sys.argv[1:] if arguments is None else list(arguments)) or [""]
    if command in ("--version", "-V"):
        print(version("lorasam"))
    elif command in ("", "--help", "-h"):
        print(USAGE)
    elif command in COMMANDS:
        COMMANDS[command][0](rest)
    else:
        print(f"error: there is no command {command!r}.\n\n{USAGE}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
