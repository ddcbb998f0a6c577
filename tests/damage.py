"""Small valid files, damaged by a seed: cut, with bytes flipped, with values of other types, sizes and encodings."""

from __future__ import annotations

import copy
import csv
import io
import json
import lzma
import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

DEEP = 50_000  # brackets within brackets
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 10**20, 2**63, -(2**31), 1e308, float("nan"), float("-inf"), 0.5, "", "x", "\0", "é" * 3,
    "../../x", "nan", "9" * 5000, "<b>", [], {}, [[]], [None], [1, [2, [3]]], {"": {}}, "A" * 10**5, list(range(3000)),
)  # fmt: skip


def damaged(data: bytes, name: str, rng: np.random.Generator) -> bytes:
    """The bytes of a file of this name, damaged in one of many ways."""
    suffix = Path(name).suffix
    if suffix == ".xz" and rng.random() < 0.7:  # what is packed is damaged, not its packing
        return lzma.compress(damaged(lzma.decompress(data), name.removesuffix(suffix), rng), preset=0)
    ways: list[Callable[[bytes, np.random.Generator], bytes]] = [*BYTES]
    if suffix in DOCUMENTS:
        ways += [lambda data, rng: DOCUMENTS[suffix](data, rng)] * 2 * len(BYTES)
    return ways[rng.integers(len(ways))](data, rng)


# ------------------------------------------------------------------------------------------------------ bytes
def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data) + 1)]


def _flipped(data: bytes, rng: np.random.Generator) -> bytes:
    out = bytearray(data)
    for k in rng.integers(0, max(1, len(out)), rng.integers(1, 9)):
        out[k : k + 1] = bytes([rng.integers(256)])
    return bytes(out)


def _moved(data: bytes, rng: np.random.Generator) -> bytes:
    """A piece is gone, or there twice."""
    start, end = sorted(int(k) for k in rng.integers(0, len(data) + 1, 2))
    return data[:start] + data[end:] if rng.random() < 0.5 else data[:end] + data[start:]


def _overwritten(data: bytes, rng: np.random.Generator) -> bytes:
    """Four bytes say something else: a size, a count."""
    k = int(rng.integers(max(1, len(data) - 4)))
    number = int(rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000]))
    return data[:k] + struct.pack(rng.choice(["<I", ">I"]), number) + data[k + 4 :]


def _encoded(data: bytes, rng: np.random.Generator) -> bytes:
    text = data.decode("latin-1")
    made = (
        lambda: text.encode("utf-16"), lambda: b"\xef\xbb\xbf\xef\xbb\xbf" + data, lambda: data + b"\xe9\xff",
        lambda: bytes(len(data)), lambda: b"", lambda: b"\n", lambda: rng.bytes(200),
        lambda: data.replace(b"\n", b"\r"),
        lambda: b"\x80\x04\x95" + data, lambda: b"PK\x03\x04" + data, lambda: b"<!DOCTYPE html><title>404</title>",
    )  # fmt: skip
    return made[rng.integers(len(made))]()


BYTES = (_cut, _flipped, _moved, _overwritten, _encoded)


# ------------------------------------------------------------------------------------------------- documents
def spoiled(document: Any, rng: np.random.Generator) -> Any:
    """A copy of a JSON-like document of which one or two values are others, gone, or under another name."""
    out = [copy.deepcopy(document)]
    for _ in range(rng.integers(1, 3)):
        places = list(_places(out))
        holder, key = places[rng.integers(len(places))]
        way = rng.integers(5)
        if way == 0 and holder is not out:
            del holder[key]
        elif way == 1 and isinstance(holder, dict):
            holder[str(key) + "x"] = holder.pop(key)
        elif way == 2 and isinstance(holder[key], int | float):
            holder[key] = -holder[key] if rng.random() < 0.5 else holder[key] * 10**9
        else:
            holder[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    return out[0]


def _places(holder: Any) -> Any:
    for key in holder if isinstance(holder, dict) else range(len(holder)):
        yield holder, key
        if isinstance(holder[key], dict | list):
            yield from _places(holder[key])


def _json(data: bytes, rng: np.random.Generator) -> bytes:
    text = json.dumps(spoiled(json.loads(data), rng))
    if rng.random() < 0.1:
        text = "[" * DEEP if rng.random() < 0.5 else text.replace(":", ':{"a":' * DEEP, 1)
    elif rng.random() < 0.1:
        numbers = [m.span() for m in re.finditer(r"\d+", text)] or [(0, 0)]
        start, end = numbers[rng.integers(len(numbers))]
        text = text[:start] + str(rng.choice(["1e999", "9" * 5000, "-9e99", "0x1", "1_0"])) + text[end:]
    return text.encode()


def _lines(data: bytes, rng: np.random.Generator) -> bytes:
    """A line of JSON that is damaged, gone, or there twice."""
    lines = data.splitlines(keepends=True)
    k = int(rng.integers(len(lines)))
    lines[k : k + 1] = [[_json(lines[k], rng) + b"\n"], [], [lines[k]] * 2][rng.choice(3, p=(0.8, 0.1, 0.1))]
    return b"".join(lines)


BOMB = "b0: &b0 [x]\n" + "".join(f"b{k}: &b{k} [{f'*b{k - 1}, ' * 9}]\n" for k in range(1, 12)) + "experiments: *b11\n"


def _yaml(data: bytes, rng: np.random.Generator) -> bytes:
    text = yaml.safe_dump(spoiled(yaml.safe_load(data), rng))
    others = (
        "[" * 3000, BOMB, "experiments: *nowhere\n", "!!python/object/apply:os.system [exit]\n", "a: \t- b",
        text.replace(": ", ": 2001-99-99 #", 1), text.replace(": ", ": 0x" + "f" * 6000 + " #", 1), "? [a]\n: b\n",
        "&a [*a]\n", "experiments: &a\n- name: *a\n",
    )  # fmt: skip
    return (text if rng.random() < 0.7 else others[rng.integers(len(others))]).encode("utf-8", "surrogatepass")


def _csv(data: bytes, rng: np.random.Generator) -> bytes:
    rows: Any = [list(row) for row in csv.reader(io.StringIO(data.decode()))]
    out = io.StringIO()
    found = spoiled(rows, rng)
    for row in found if isinstance(found, list) else []:
        csv.writer(out).writerow(row if isinstance(row, list) else [row])
    return out.getvalue().encode("utf-8", "surrogatepass")


def _xml(data: bytes, rng: np.random.Generator) -> bytes:
    text = data.decode()
    values = [m.span(1) for m in re.finditer(r'="([^"]*)"', text)]
    start, end = values[rng.integers(len(values))]
    value = str(VALUES[rng.integers(len(VALUES))]).replace("<", "&lt;").replace("\0", "")
    if rng.random() < 0.1:
        text, start, end, value = text + "<a>" * DEEP, 0, 0, ""
    return (text[:start] + value + text[end:]).encode()


def _numbers(data: bytes, rng: np.random.Generator) -> bytes:
    """Of text in columns one word is another."""
    words = re.split(r"(\s+)", data.decode())
    words[2 * int(rng.integers((len(words) + 1) // 2))] = str(VALUES[rng.integers(len(VALUES))])
    return "".join(words).encode()


def _safetensors(data: bytes, rng: np.random.Generator) -> bytes:
    """The header says something else: dtypes, shapes, offsets, metadata; or there is too much of it."""
    length = int.from_bytes(data[:8], "little")
    header, tensors = json.loads(data[8 : 8 + length]), data[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    entry, told = header[names[rng.integers(len(names))]], header["__metadata__"]
    match rng.integers(8):
        case 0:
            header = spoiled(header, rng)
        case 1:
            told["more"] = "x" * 10**7
        case 2:
            entry["dtype"] = str(rng.choice(["I64", "BF16", "F8_E4M3", "BOOL", "U8", "F16", "nothing", "C64", "I8"]))
        case 3:
            entry["shape"] = [-s for s in entry["shape"]] if rng.random() < 0.5 else entry["shape"][::-1]
        case 4:
            header[names[0] + "x"] = header.pop(names[0])
        case _:
            key = list(told)[rng.integers(len(told))]
            inside = spoiled(_decoded(told[key]), rng)
            told[key] = inside if isinstance(inside, str) else json.dumps(inside)
    text = json.dumps(header).encode()
    stated = len(text) if rng.random() < 0.95 else int(rng.choice([2**62, 2**40, 0, 10**8]))
    return struct.pack("<Q", stated) + text + tensors


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


class Trap:
    """What a pickle runs when it is read: a folder of this name is made."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return os.mkdir, (self.name,)


def _torch(data: bytes, rng: np.random.Generator) -> bytes:
    """What torch saved, with other values, other types of tensors, or a trap."""
    state = torch.load(io.BytesIO(data), weights_only=True)
    out, name = io.BytesIO(), sorted(map(str, state))[rng.integers(len(state))]
    others = (
        lambda t: t.to(torch.int8), lambda t: t.to(torch.complex64), lambda t: t.to(torch.bool), lambda t: t[None],
        lambda t: t.to_sparse(), lambda t: t.to("meta"), lambda t: t * float("nan"), lambda t: t.double(),
    )  # fmt: skip
    way = rng.integers(6)
    if way == 0:
        return pickle.dumps(Trap(TRAP), 2)
    if way == 1:
        state[name] = Trap(TRAP)
    elif way == 2 and isinstance(state[name], torch.Tensor):
        state[name] = others[rng.integers(len(others))](state[name])
    elif way == 3:
        state = [state, None, {1: 2}, {"model_state": state}, {"model_state": [1]}, {"model": state}][rng.integers(6)]
    else:
        state = spoiled(state, rng)
    torch.save(state, out)
    return out.getvalue()


TRAP = "trap-of-a-pickle"
DOCUMENTS: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    ".json": _json, ".jsonl": _lines, ".yaml": _yaml, ".csv": _csv, ".xml": _xml, ".txt": _numbers,
    ".safetensors": _safetensors, ".pth": _torch, ".pt": _torch,
}  # fmt: skip
