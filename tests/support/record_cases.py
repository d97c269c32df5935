"""Small sets of pretraining records, and a way to corrupt them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from funnel.formats.tfrecord import encode_example, read_records, write_records
from funnel.pretraining.create_records import RecordSet
from funnel.pretraining.masking import Masker, MaskingConfig
from funnel.tokenization.special_tokens import SpecialIds

LENGTH, TARGETS, VOCAB = 12, 2, 5000
SPECIAL = SpecialIds(
    unk_id=0, cls_id=1, sep_id=2, pad_id=3, mask_id=4,
    bos_id=None, eos_id=None, eod_id=None, eop_id=None,
)  # fmt: skip
FIRST_WORD = 10  # record n of a set holds words of id FIRST_WORD + n


def masker(**changes) -> Masker:
    config = MaskingConfig(**{"seq_len": LENGTH, "num_predict": TARGETS} | changes)
    return Masker(config, SPECIAL, VOCAB)


def example(number: int, length: int = LENGTH) -> dict[str, np.ndarray]:
    ids = np.full(length, FIRST_WORD + number)
    ids[[0, 5, length - 1]] = SPECIAL.cls_id, SPECIAL.sep_id, SPECIAL.sep_id
    return {
        "input": ids,
        "seg_id": np.repeat([2, 0, 1], [1, 5, length - 6]),
        "boundary": np.append(np.delete(np.arange(1, length - 1), 4), length),
        "label": np.array([0]),
    }


def write_set(
    folder: Path, counts: tuple[int, ...], first: int = 0, pass_id: int = 0, **names
) -> list[Path]:
    """Write a set of files with ``counts`` records, numbered from ``first``."""
    folder.mkdir(exist_ok=True)
    named = {"split": "train", "seq_len": LENGTH, "uncased": True, "num_task": len(counts)}
    records = RecordSet(pass_id=pass_id, **named | names)
    paths = [folder / records.data_name(task) for task in range(len(counts))]
    for task, (path, count) in enumerate(zip(paths, counts, strict=True)):
        write_records(path, (encode_example(example(first + i)) for i in range(count)))
        description = {"filenames": [path.name], "num_example": count}
        (folder / records.meta_name(task)).write_text(json.dumps(description))
        first += count
    return paths


def numbers(inputs: np.ndarray) -> list[int]:
    """Return the numbers of records from their ``origin_input`` [n, T]."""
    return (np.asarray(inputs)[:, 1] - FIRST_WORD).tolist()


def corrupt(path: Path, index: int, at: int) -> None:
    """Change byte ``at`` of a record: up to 7 its length, from 12 on its data."""
    offset = next(read_records(path, index)).offset + at
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x55
    path.write_bytes(content)
