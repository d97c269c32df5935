"""The original's scripts and README commands as a user types them, and ways to run them.

Only the flags that a command line takes beyond paths are made small: a tiny model, few steps.
"""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import subprocess
import tempfile
from pathlib import Path

import program_server
import repo_layout
from answering_runs import write_race, write_squad
from classifier_runs import invoke, load_program, write_files
from tf_program_runs import load_tf_program

CREATE_DATA = """
python tensorflow/create_pretrain_data.py --seq_len=512 --input_glob='corpus/*.txt' --save_dir=DIR
--pass_id=0 --num_task=8 --task=0 --tokenizer_type=word_piece --tokenizer_path=vocab.txt
--uncased=True
"""
PRETRAIN = """
python tensorflow/pretrain.py --use_tpu=False --num_hosts=1 --num_core_per_host=1
--loss_type=electra --record_dir=DIR --model_dir=EXP --tokenizer_path=vocab.txt
--train_batch_size=256 --learning_rate=1e-4 --seq_len=512 --num_predict=85 --train_steps=1000000
--warmup_steps=10000 --block_size=6_6_6 --decoder_size=2 --d_model=768 --d_embed=768 --n_head=12
--d_head=64 --d_inner=3072 --pool_q_only=True --do_eval=True --eval_split=dev
"""
MODIFY = """
python tensorflow/modify_ckpt.py --src_ckpt=FULL/model.ckpt --tgt_ckpt=CKPT/model.ckpt
--finetune_only=True
"""
TF_CLASSIFIER = """
python tensorflow/classifier.py --do_train=True --do_eval=True --do_submit=True --task_name=rte
--data_dir=GLUE/RTE --output_dir=PROC --model_dir=EXP --uncased=True --tokenizer_type=word_piece
--tokenizer_path=CKPT/vocab.uncased.txt --init_checkpoint=CKPT/model.ckpt
--model_config=CKPT/net_config.json --max_seq_length=128 --train_batch_size=16 --learning_rate=1e-5
--train_steps=1550 --warmup_steps=155 --iterations=155 --save_steps=155 --num_core_per_host=1
--use_tpu=False
"""
TF_RACE = """
python tensorflow/race.py --do_train=True --do_eval=True --data_dir=RACE --output_dir=PROC
--model_dir=EXP --uncased=True --tokenizer_path=CKPT/vocab.uncased.txt
--init_checkpoint=CKPT/model.ckpt --model_config=CKPT/net_config.json --max_seq_length=512
--max_qa_length=128 --train_batch_size=16 --learning_rate=2e-5 --train_steps=24000
--warmup_steps=2400 --save_steps=2400 --num_core_per_host=1 --use_tpu=False
"""
CONVERT = """
python pytorch/ckpt_to_pt.py --input_ckpt_path=CKPT/model.ckpt
--input_config_path=CKPT/net_config.json --output_pt_path=PT/model.pt
--output_config_path=PT/net_config.pytorch.json
"""
CLASSIFIER = """
python pytorch/classifier.py --device_id=0 --dataset=CoLA --data_dir=GLUE/CoLA --output_dir=PROC
--model_dir=EXP --tokenizer_type=word_piece --tokenizer_path=CKPT/vocab.uncased.txt
--init_ckpt_config=PT/net_config.pytorch.json --init_ckpt=PT/model.pt --attn_type=rel_shift
--max_length=128 --lr=1e-5 --train_bsz=16 --epochs=10
"""

_SIZES = {"d_model": 16, "d_embed": 16, "n_head": 4, "d_head": 4, "d_inner": 32}
TINY_RECORDS = {"seq_len": 24}
TINY_PRETRAINING = {
    **_SIZES,
    **TINY_RECORDS,
    "block_size": "1_1_1",
    "decoder_size": "1",
    "train_batch_size": 4,
    "num_predict": 4,
    "train_steps": 4,
    "warmup_steps": 1,
    "save_steps": 2,
    "start_eval_steps": 2,
    "eval_batch_size": 2,
}
TINY_TF = {
    "max_seq_length": 32,
    "train_batch_size": 4,
    "train_steps": 4,
    "warmup_steps": 1,
    "save_steps": 2,
    "iterations": 2,
}
TINY_TORCH = {"max_length": 16, "train_bsz": 8, "epochs": 1}


def write_data(folder: Path) -> None:
    """Write GLUE/RTE, GLUE/CoLA, RACE, SQuAD's files, a corpus of eight files, and vocab.txt."""
    write_race(folder)
    write_files(folder / "GLUE")
    write_squad(folder / "squad")
    draw, words = random.Random(0), ("good", "bad", "film", "the", "a", "plot", "very", "not")
    (folder / "GLUE" / "RTE").mkdir()
    for split, count in (("train", 12), ("dev", 6), ("test", 5)):
        label = "" if split == "test" else "\tlabel"
        lines = [f"index\tsentence1\tsentence2{label}"]
        for index in range(count):
            texts = [" ".join(draw.choices(words, k=5)) for _ in range(2)]
            label = [] if split == "test" else [("entailment", "not_entailment")[index % 2]]
            lines.append("\t".join([str(index), *texts, *label]))
        (folder / "GLUE" / "RTE" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    (folder / "corpus").mkdir()
    for number in range(8):
        sentences = [" ".join(draw.choices(words, k=draw.randint(4, 9))) for _ in range(60)]
        (folder / "corpus" / f"{number}.txt").write_text("\n".join(sentences) + "\n")


def run(command: str, folder: Path, *flags: str, **tiny: object) -> int:
    """Run a command in ``folder`` and in this process; return its exit status."""
    _, program, *arguments = shlex.split(command)
    backend, name = program.removesuffix(".py").split("/")
    load = load_tf_program if backend == "tensorflow" else load_program
    arguments += [f"--{key}={value}" for key, value in tiny.items()]
    with contextlib.chdir(folder):
        return invoke(load(name), [*arguments, *flags])


def run_process(words: list[str], folder: Path, **environment: object) -> None:
    """Run a script or program of this repository in ``folder`` as a process of its own."""
    variables = {name: str(value) for name, value in environment.items()}
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    command = [str(repo_layout.ROOT / words[0]), *words[1:]]
    is_script = command[0].endswith(".sh")
    for program in _record_calls(command, folder, variables) if is_script else [command]:
        done = program_server.run(program, cwd=folder, env=variables)
        assert done.returncode == 0, done.stderr


def _record_calls(script: list[str], folder: Path, variables: dict[str, str]) -> list[list[str]]:
    """Run a shell script and return the command lines that it gives to Python, without running."""
    with tempfile.TemporaryDirectory() as temporary:
        recorder, record = Path(temporary, "python"), Path(temporary, "record")
        recorder.write_text(f"#!/bin/sh\nprintf '%s\\0' \"$@\" '' >> '{record}'\n")
        recorder.chmod(0o755)
        done = subprocess.run(
            ["bash", *script],
            cwd=folder,
            env=variables | {"PYTHON": str(recorder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        # An empty word ends each command line.
        calls = record.read_text().removesuffix("\0\0").split("\0\0")
        return [call.split("\0") for call in calls]


def names(folder: Path) -> set[str]:
    """Return the names in a directory, without TensorBoard's."""
    return {item.name for item in folder.iterdir() if not item.name.startswith("events.")}
