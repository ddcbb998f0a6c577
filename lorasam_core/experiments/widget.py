"""Labelling with mouse, keys or fingers, in JupyterLab and other front ends of Jupyter's widgets."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lorasam_core import plots
from lorasam_core.experiments.labelling import save
from lorasam_core.masks.edit import Labelling
from lorasam_core.masks.patches import cut

try:
    import anywidget
except ImportError as error:
    raise ImportError('Labelling in JupyterLab needs the package anywidget; pip install ".[label]".') from error

ACTIONS = ("remove", "merge", "split", "add", "refine", "accept", "undo", "redo")  # of a Labelling


class LabelWidget(anywidget.AnyWidget):
    """A labelling to click on; as the last line of a cell it is shown. Its help line names the keys.

    All that is done goes through the methods of `work`, so that its log is the same as by code, and both can be mixed:
    `refresh` shows what code has done. What cannot be done is said in the widget, and changes nothing.
    """

    _esm = Path(__file__).with_name("widget.js")

    def __init__(self, work: Labelling, save_to: str | Path | None = None) -> None:
        """save_to: the folder in which Ctrl+S saves, as `labelling.save` does; None: nothing is saved."""
        super().__init__()
        self.work, self.save_to = work, None if save_to is None else Path(save_to)
        self._saved = len(work.log)
        self._shown = work.labels.copy()
        self.on_msg(self._hear)

    def refresh(self) -> None:
        """Show the labels as they are now."""
        self._answer({})

    def _hear(self, _: Any, asked: Mapping[str, Any], buffers: Any) -> None:
        """asked: action, given (its arguments), named (those by name); number and view, which come back."""
        action, answer = asked["action"], {name: asked[name] for name in ("action", "number", "view")}
        try:
            if action == "show":
                self._answer(answer, picture=True)
                return
            if action == "save":
                answer["said"] = f"saved in {self._save()}"
            elif action in ACTIONS:
                made = getattr(self.work, action)(*asked["given"], **asked["named"])
                answer["made"] = made if isinstance(made, list) else [] if made is None else [made]
        except ValueError as error:
            answer["problem"] = str(error)
        except Exception as error:  # the front end would wait for ever
            self._answer(answer | {"problem": f"{type(error).__name__}: {error}"})
            raise
        self._answer(answer)

    def _save(self) -> Path:
        if self.save_to is None:
            raise ValueError("there is no folder to save in; give one, as LabelWidget(work, save_to=folder).")
        save(self.work, self.save_to)
        self._saved = len(self.work.log)
        return self.save_to

    def _answer(self, answer: Mapping[str, Any], picture: bool = False) -> None:
        """Send what has changed of the labels, with the picture all of them: uint32, row by row, compressed."""
        work = self.work
        piece = cut(np.ones(work.labels.shape, bool) if picture else work.labels != self._shown)
        self._shown = work.labels.copy()
        content = {
            "made": [], "problem": "", "said": "", "window": [piece.y, piece.x, *piece.mask.shape],
            "accepted": work.accepted, "saved": self._saved == len(work.log), **answer,
        }  # fmt: skip
        buffers = [zlib.compress(work.labels[piece.window].astype("<u4").tobytes(), 1)]
        if picture:
            height, width = work.labels.shape
            content["picture"] = {"height": height, "width": width, "colors": plots.OUTLINES,
                                  "name": str(work.log[0].get("id", ""))}  # fmt: skip
            blue_first = plots.rgb(work.image)[..., ::-1]
            buffers.append(cv2.imencode(".png", blue_first, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes())
        self.send(content, buffers)
