"""Runs, their records, what is compared: `sweep` does what is missing, `records.load` reads what is there."""

from lorasam_core.experiments.sweeps import run_one, sweep

__all__ = ["run_one", "sweep"]
