"""pytorch/squad.py and pytorch/race.py: their common behaviour."""

import signal

import pytest

torch = pytest.importorskip("torch")

from answering_runs import RACE, SQUAD
from classifier_runs import Zygote, curve, kill_after, load_program, refuse

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
BOTH = pytest.mark.parametrize("task", [SQUAD, RACE], ids=lambda task: task.name)


@BOTH
def test_a_killed_run_continues_bit_for_bit(task, tmp_path):
    task.write(tmp_path)
    zygote, settings = Zygote(task.name), {"epochs": 4, "save_steps": 2, "n_log_epoch": 9}
    log, complete, killed = (tmp_path / name for name in ("run.log", "complete", "killed"))
    try:
        argv = task.arguments(tmp_path, model_dir=complete, **settings)
        assert zygote.run(argv, log) == 0, log.read_text()
        argv = task.arguments(tmp_path, model_dir=killed, **settings)
        assert kill_after(zygote, argv, killed, 5, log) == -signal.SIGKILL
        assert zygote.run(argv, log) == 0, log.read_text()
    finally:
        zygote.close()
    assert curve(killed) == curve(complete)
    names = ["best/model.safetensors", "final_scores.json"]
    if task is SQUAD:
        names += ["nbest_predictions.json", "null_odds.json"]
    for name in names:
        assert (killed / name).read_bytes() == (complete / name).read_bytes()


WRONG = {
    "nothing to do": (RACE, {"do_train": None, "do_eval": None}, ["--do_train", "--do_eval"]),
    "no data": (RACE, {"data_dir": None}, ["--data_dir is needed"]),
    "no such data": (RACE, {"data_dir": "/nowhere"}, ["/nowhere/dev/middle"]),
    "no model": (RACE, {"do_train": None}, ["--do_eval: no model in", "run/best"]),
    "length": (RACE, {"max_qa_length": 30}, ["max_seq_length=32"]),
    "split": (RACE, {"eval_split": "train"}, ["--eval_split"]),
    "batch": (RACE, {"train_bsz": 0}, ["batch_size=0"]),
    "no model_dir": (RACE, {"model_dir": None}, ["--model_dir is needed"]),
    "two models": (RACE, {"eval_model_dir": "other"}, ["--eval_model_dir goes without"]),
    "no other run": (
        RACE,
        {"do_train": None, "eval_model_dir": "/nowhere"},
        ["--eval_model_dir=/nowhere: no model in /nowhere/best"],
    ),
    "squad, nothing to do": (
        SQUAD,
        {"do_train": None, "do_predict": None},
        ["--do_train", "--do_ensemble"],
    ),
    "no train file": (SQUAD, {"train_file": None}, ["--train_file is needed"]),
    "no predict file": (SQUAD, {"predict_file": None}, ["--predict_file is needed"]),
    "no such file": (SQUAD, {"train_file": "/nowhere.json"}, ["/nowhere.json"]),
    "squad, no model": (SQUAD, {"do_train": None}, ["--do_predict: no model in", "run/best"]),
    "squad, length": (SQUAD, {"max_query_length": 25}, ["max_seq_length=28"]),
    "beam": (SQUAD, {"start_n_top": 0}, ["--start_n_top=0"]),
    "version": (SQUAD, {"eval_version": "v3"}, ["--eval_version"]),
    "metric": (SQUAD, {"target_eval_key": "best_f2"}, ["best_f2", "best_exact"]),
    "threshold as metric": (SQUAD, {"target_eval_key": "best_f1_thresh"}, ["target_eval_key"]),
    "ensemble of none": (
        SQUAD,
        {"do_train": None, "do_predict": None, "do_ensemble": True},
        ["--ensemble_ckpts is needed"],
    ),
    "ensemble and training": (SQUAD, {"do_ensemble": True}, ["--do_ensemble goes without"]),
    "no processes": (SQUAD, {"num_proc": 0}, ["--num_proc=0"]),
    "no cache": (SQUAD, {"prepro_split": "eval"}, ["--output_dir is needed"]),
    "no file for the cache": (
        SQUAD,
        {"prepro_split": "train", "output_dir": "cache", "train_file": None},
        ["--train_file is needed"],
    ),
}


@pytest.fixture(scope="module")
def programs():
    return {task.name: load_program(task.name) for task in (SQUAD, RACE)}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_flags_write_nothing(tmp_path, programs, capsys, case):
    task, changes, words = WRONG[case]
    task.write(tmp_path)
    before = set(tmp_path.iterdir())
    refuse(programs[task.name], capsys, task.arguments(tmp_path, **changes), *words)
    assert set(tmp_path.iterdir()) == before
