"""Data: samples, readers, splits, windows, augmentation and generated micrographs."""
