"""Made-up sentences with named entities, as files, and a tiny model for them."""

from __future__ import annotations

import json
import random
from pathlib import Path

from classifier_runs import flag_list

SPECIAL = ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>")
PLACES = ("paris", "rome", "new york", "oslo")
PEOPLE = ("anna", "peter gray", "maria", "john")
OTHERS = ("went", "to", "saw", "the", "old", "town", "with", ",", "and", ".")
ODD = [("the", "O"), ("oslo", "B-PER")]  # unlike all others, so that no score is 1
SIZES = {
    "d_model": 16,
    "d_embed": 16,
    "n_head": 2,
    "d_head": 8,
    "d_inner": 32,
    "block_size": "1_1",
    "decoder_size": "1",
    "dropout": 0.0,
    "dropatt": 0.0,
    "dropact": 0.0,
    "pooling_type": "mean",
    "pooling_size": 2,
    "pool_q_only": True,
    "separate_cls": True,
}


def make_sentences(count, seed=0):
    """Return `count` sentences as lists of (word, IOB2 tag); a type follows from the words."""
    draw = random.Random(seed)
    sentences = []
    for _ in range(count):
        rows = []
        for _ in range(draw.randint(2, 6)):
            kind = draw.choice(("PER", "LOC", "", ""))
            names = {"PER": PEOPLE, "LOC": PLACES, "": OTHERS}[kind]
            for number, word in enumerate(draw.choice(names).split()):
                rows.append((word, f"{'IB'[number == 0]}-{kind}" if kind else "O"))
        sentences.append(rows)
    return sentences


def as_conll(sentences, middle="X"):
    """Return sentences in CoNLL-2003's columns (word, another tag, entity)."""
    lines = ["-DOCSTART- -X- O", ""]
    for rows in sentences:
        lines += [*(f"{word} {middle} {tag}" for word, tag in rows), ""]
    return "\n".join(lines) + "\n"


def as_jsonl(sentences):
    """Return sentences as JSON lines."""
    rows = [{"tokens": [w for w, _ in s], "ner_tags": [t for _, t in s]} for s in sentences]
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_files(folder: Path, train=24, **config):
    """Write `ner/`, `vocab.txt` and net_config.json.

    dev is train and ODD; test has other sentences. "gray" is two pieces.
    """
    data = folder / "ner"
    data.mkdir(parents=True)
    sentences = make_sentences(train)
    (data / "train.txt").write_text(as_conll(sentences))
    (data / "dev.txt").write_text(as_conll([*sentences, ODD]))
    (data / "test.txt").write_text(as_conll(make_sentences(5, seed=1)))
    words = sorted({word for name in (*PLACES, *PEOPLE, *OTHERS) for word in name.split()})
    words = [word for word in words if word != "gray"] + ["gr", "##ay"]
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in (*SPECIAL, *words)))
    sizes = {"vocab_size": len(SPECIAL) + len(words), **SIZES, **config}
    (folder / "net_config.json").write_text(json.dumps(sizes))


def torch_flags(folder, model_dir="run", **changes):
    """Return flags of a run of PyTorch's tagger on those files; None leaves a flag out."""
    flags = {
        "device_id": -1,
        "dataset": "conll",
        "data_dir": folder / "ner",
        "model_dir": folder / model_dir,
        "tokenizer_path": folder / "vocab.txt",
        "init_ckpt_config": folder / "net_config.json",
        "max_length": 16,
        "overlap": 4,
        "train_bsz": 8,
        "epochs": 20,
        "lr": 1e-2,
        "seed": 1,
        "eval_steps": 60,
    }
    return flag_list(flags | changes)


def tf_flags(folder, model_dir="run-tf", **changes):
    """Return flags of a run of TensorFlow's tagger on those files; None leaves a flag out."""
    flags = {
        "do_train": True,
        "task_name": "conll",
        "data_dir": folder / "ner",
        "output_dir": folder / "records",
        "model_dir": folder / model_dir,
        "tokenizer_path": folder / "vocab.txt",
        "model_config": folder / "net_config.json",
        "max_seq_length": 16,
        "overlap": 4,
        "train_batch_size": 8,
        "learning_rate": 1e-2,
        "train_steps": 60,
        "seed": 1,
    }
    return flag_list(flags | changes)


def read_columns(path):
    """Return the sentences of a file of predictions as lists of (word, tag)."""
    text = path.read_text()
    return [
        [tuple(line.split("\t")) for line in part.splitlines()]
        for part in text.split("\n\n")
        if part.strip()
    ]
