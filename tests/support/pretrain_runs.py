"""Records, a vocabulary and a tiny model for the tests of pretraining, and the flags of a run."""

import json

import pytest

from classifier_runs import flag_list
from corpus_cases import random_documents, tiny_tokenizer, write_text
from funnel.pretraining.create_records import CorpusConfig, create_records

SEQ_LEN = 16
CONFIG = {
    "vocab_size": 20, "d_model": 16, "d_embed": 16, "n_head": 4, "d_head": 4, "d_inner": 32,
    "block_size": "1_1", "decoder_size": "1", "dropout": 0.1, "dropatt": 0.1, "dropact": 0.0,
    "pooling_type": "mean", "pooling_size": 2, "pool_q_only": True, "separate_cls": True,
}  # fmt: skip


def write_files(folder, **config):
    """Two files of training records, one of dev records, vocab.txt and net_config.json."""
    for number in range(2):
        write_text(folder / "train" / f"{number}.txt", random_documents(number, 8, 6, 9))
    write_text(folder / "dev" / "0.txt", random_documents(9, 3, 6, 9))
    tokenizer = tiny_tokenizer(folder)
    for split, tasks in (("train", 2), ("dev", 1)):
        for task in range(tasks):
            settings = CorpusConfig(
                input_glob=str(folder / split / "*.txt"),
                save_dir=str(folder / "records"),
                seq_len=SEQ_LEN,
                split=split,
                num_task=tasks,
            )
            create_records(settings, task, tokenizer)
    (folder / "net_config.json").write_text(
        json.dumps(CONFIG | {"vocab_size": tokenizer.vocab_size} | config)
    )


def arguments(folder, model_dir="run", **changes):
    """Flags of a short run on those files; None leaves a flag out, True gives it no value."""
    flags = {
        "device_id": -1,
        # Measured, it could differ between two runs that are compared.
        "short_attention": "parts",
        "gelu": "parts",
        "config": folder / "net_config.json",
        "record_dir": folder / "records",
        "tokenizer_path": folder / "vocab.txt",
        "model_dir": None if model_dir is None else folder / model_dir,
        "loss_type": "electra",
        "width_shrink": 0.5,
        "seq_len": SEQ_LEN,
        "num_predict": 4,
        "train_bsz": 4,
        "train_steps": 12,
        "lr": 1e-2,
        "eval_split": "dev",
        "eval_steps": 6,
        "save_steps": 4,
        "log_steps": 1,
        "seed": 1,
    }
    return flag_list(flags | changes)


def assert_close(row, reference):
    """Assert that two lines of metrics.jsonl are equal up to rounding."""
    numbers, wanted = ({k: v for k, v in r.items() if k != "split"} for r in (row, reference))
    assert row["split"] == reference["split"]
    assert numbers == pytest.approx(wanted, rel=1e-5, abs=1e-5)
