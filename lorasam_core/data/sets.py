"""A sequence of samples that are read when they are asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, overload

import numpy as np
from tqdm import tqdm

from lorasam_core.data.sample import Sample, content_hash
from lorasam_core.data.splits import Split, check_groups

CACHE_BYTES = 2**30  # decoded samples beyond this are read again each time

Load = Callable[[str], tuple[Sample, bool]]  # id -> the sample, and whether its instances come from a binary mask


class _Store:
    """Reads samples by id and keeps them decoded; a set and its parts share one."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.digests: dict[str, str] = {}
        self.binary: set[str] = set()
        self._kept: dict[str, tuple[np.ndarray, np.ndarray, str, float | None]] = {}
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        """Another process reads for itself: pixels are not sent to it."""
        return self.__dict__ | {"_kept": {}, "_bytes": 0}

    def read(self, i: str) -> Sample:
        """One sample, from memory where it is kept."""
        if i not in self._kept:
            sample, _ = self.load(i)
            self.keep(sample)
            return sample
        image, labels, group, pixel_size = self._kept[i]
        return Sample(image, labels.astype(np.int32), i, group, pixel_size)

    def keep(self, sample: Sample) -> None:
        """Keep a sample, its labels in the smallest type, as long as there is room."""
        labels = sample.labels.astype(np.min_scalar_type(int(sample.labels.max(initial=0))))
        size = sample.image.nbytes + labels.nbytes
        if sample.id not in self._kept and self._bytes + size <= CACHE_BYTES:
            self._kept[sample.id] = (sample.image, labels, sample.group, sample.pixel_size)
            self._bytes += size

    def inspect(self, i: str) -> tuple[Sample, bool, str]:
        """Read a sample and hash it."""
        sample, binary = self.load(i)
        return sample, binary, content_hash(sample)


class SampleSet(Sequence[Sample]):
    """Samples of one source, or of one part of its split: len, index (a slice gives a list), iterate.

    name, source: what is shown, and what was asked for. groups: id to group, of the samples here.
    split: the whole Split, also in a part. notes: sentences on how the data were read.
    fingerprint: SHA-256 hex of the whole set's contents, also in a part.
    A sample is decoded when it is first asked for and kept in memory, up to 1 GiB in all.
    """

    def __init__(
        self,
        name: str,
        source: str,
        groups: Mapping[str, str],
        load: Load,
        split: Split,
        notes: Sequence[str] = (),
        fingerprint: str | None = None,
    ) -> None:
        """`fingerprint` None: computed from the pixels. Raises DataError where the split does not fit the groups."""
        check_groups(split, groups)
        self.name, self.source, self.split = name, source, split
        self.groups = dict(groups)
        self._whole = tuple(groups)
        self._ids = tuple(groups)
        self._notes = list(notes)
        self._fingerprint = fingerprint
        self._store = _Store(load)

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self._store.read(i) for i in self._ids[index]]
        return self._store.read(self._ids[index])

    def __repr__(self) -> str:
        return f"SampleSet({self.name!r}, {len(self)} samples in {len(set(self.groups.values()))} groups)"

    @property
    def ids(self) -> tuple[str, ...]:
        """The samples' ids, in order."""
        return self._ids

    @property
    def notes(self) -> list[str]:
        """Sentences on how the data were read, for logs and captions."""
        n, whole = len(self._store.binary), len(self._whole)
        if not n:
            return list(self._notes)
        which = "Instances" if n == whole else f"In {n} of {whole} images instances"
        return [*self._notes, f"{which} are connected components of binary masks: touching particles count as one."]

    def add_note(self, note: str) -> None:
        """Add a sentence to `notes`."""
        self._notes.append(note)

    @property
    def fingerprint(self) -> str:
        """SHA-256 hex over ids and decoded pixels (generated data: over generator version, seed and indices)."""
        if self._fingerprint is None:
            digests = self.digests()
            lines = "".join(f"{i} {digests[i]}\n" for i in sorted(digests))
            self._fingerprint = hashlib.sha256(lines.encode()).hexdigest()
        return self._fingerprint

    def digests(self) -> dict[str, str]:
        """Id to SHA-256 hex of the decoded pixels, for the whole set; reads what was not read before."""
        missing = [i for i in self._whole if i not in self._store.digests]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            try:
                results = pool.map(self._store.inspect, missing)
                bar = tqdm(results, f"reading {self.name}", len(missing), unit="image", delay=2, disable=None)
                for sample, binary, digest in bar:
                    self._store.keep(sample)
                    self._store.digests[sample.id] = digest
                    if binary:
                        self._store.binary.add(sample.id)
            except BaseException:
                pool.shutdown(cancel_futures=True)  # the first bad file ends it
                raise
        return dict(self._store.digests)

    def check(self) -> SampleSet:
        """Read every file of the whole set once; raises DataError for the first that cannot be used. Returns self."""
        self.digests()
        return self

    def subset(self, part: str) -> SampleSet:
        """The samples of "train", "val" or "test"; they share what is in memory. Raises ValueError for another name."""
        parts = self.split.parts()
        if part not in parts:
            raise ValueError(f"{part!r} is no part of a split; choose one of {', '.join(parts)}.")
        return self._view(parts[part])

    def draw(self, count: int, seed: int = 0) -> SampleSet:
        """`count` samples at random, in their order here; those drawn for a smaller count are among them.

        Raises ValueError for a count below 1 or above the number of samples.
        """
        if not 1 <= count <= len(self):
            raise ValueError(f"{count} images are asked for, and {self.name} has {len(self)}; give 1 to {len(self)}.")
        chosen = set(np.random.default_rng(seed).permutation(len(self))[:count].tolist())
        return self._view([i for place, i in enumerate(self._ids) if place in chosen])

    def select(self, ids: Sequence[str]) -> SampleSet:
        """The samples of these ids, in this order. Raises ValueError for an id that is not here."""
        if unknown := [i for i in ids if i not in self.groups]:
            raise ValueError(f"{self.name} has no sample {unknown[0]!r}; give ids of its own.")
        return self._view(ids)

    def _view(self, ids: Sequence[str]) -> SampleSet:
        view = object.__new__(SampleSet)
        view.__dict__.update(self.__dict__, _ids=tuple(ids), groups={i: self.groups[i] for i in ids})
        return view
