"""TensorFlow's classifier.py reads the outputs of a trained model as the labels it names."""

import json
import shutil

import pytest

from support_tf import import_tensorflow

import_tensorflow()

from classifier_runs import invoke, refuse, write_files
from funnel.config.heads import MULTI_LABEL
from tf_program_runs import classifier_flags, load_tf_program

pytestmark = pytest.mark.slow

LABELS = ("yes", "no")  # not sorted


@pytest.fixture(scope="module")
def program():
    return load_tf_program("classifier")


def write_split(folder, split, labels):
    folder.mkdir(exist_ok=True)
    rows = [f"{('good', 'bad')[i % 2]} film,{labels[i % 2]}" for i in range(16)]
    (folder / f"{split}.csv").write_text("text,label\n" + "\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def trained(program, tmp_path_factory):
    """Return the folder of a run that trained and predicted with --labels=yes,no."""
    folder = tmp_path_factory.mktemp("tf-labels")
    write_files(folder, dropout=0.0, dropatt=0.0)
    for split in ("train", "dev", "test"):
        write_split(folder / "own", split, LABELS)
    changes = {"do_eval": True, "do_predict": True, "train_steps": 150, "log_freq": 50}
    changes |= {"learning_rate": 5e-3, "labels": ",".join(LABELS)}
    flags = own_flags(folder, folder / "own", **changes)
    assert invoke(program, flags) == 0
    return folder


def own_flags(folder, data, **changes):
    return classifier_flags(folder, **({"task_name": "csv", "data_dir": data} | changes))


def evaluation_flags(trained, tmp_path, data, **changes):
    """Return flags that evaluate the run without training, whose results go elsewhere."""
    wanted = {"do_train": False, "do_eval": True, "do_predict": True}
    wanted |= {"output_dir": tmp_path / "records", "model_dir": tmp_path / "evaluation"}
    wanted |= {"eval_model_dir": trained / "run", "eval_all_ckpt": False}
    return own_flags(trained, data, **(wanted | changes))


def read_results(run):
    best = json.loads((run / "best_result.json").read_text())
    return best["score"], (run / "test_results.txt").read_text().splitlines()


def test_the_run_names_its_labels_and_needs_no_training_file(program, trained, tmp_path, capsys):
    before = read_results(trained / "run")
    assert before[0] > 0.5
    data = tmp_path / "data"
    write_split(data, "dev", ("YES", "No"))
    write_split(data, "test", ("-1", "-1"))
    assert invoke(program, evaluation_flags(trained, tmp_path, data)) == 0
    assert read_results(tmp_path / "evaluation") == before
    log = capsys.readouterr().err
    assert "labels of" in log and "0 = yes, 1 = no" in log
    assert "labels read 'YES' as 'yes' (8 rows), 'No' as 'no' (8 rows)" in log
    assert f"test ({data / 'test.csv'}): 16 rows; 16 without label" in log


def test_labels_in_another_order_are_permuted(program, trained, tmp_path):
    """Evaluated as a task of another name: the only head is meant."""
    for split in ("dev", "test"):
        text = (trained / "own" / f"{split}.csv").read_text()
        (tmp_path / f"{split}.tsv").write_text(text.replace(",", "\t"))
    flags = evaluation_flags(trained, tmp_path, tmp_path, task_name="tsv", labels="no, yes")
    assert invoke(program, flags) == 0
    assert read_results(tmp_path / "evaluation") == read_results(trained / "run")


def test_other_labels_are_refused(program, trained, tmp_path, capsys):
    data = tmp_path / "data"
    for split in ("train", "dev", "test"):
        write_split(data, split, ("0", "1"))
    flags = evaluation_flags(trained, tmp_path, data)
    refuse(program, capsys, flags, "dev.csv:2: unknown label '0'; allowed: yes, no")
    refuse(program, capsys, [*flags, "--labels=0,1"], "are yes, no, those of task csv are 0, 1")
    refuse(program, capsys, [*flags, "--regression=True"], "is single_label_classification")
    refuse(program, capsys, [*flags, "--cls_scope=rte"], "model/rte/logit (only of csv)")
    training = {"init_checkpoint": trained / "run", "model_dir": tmp_path / "new"}
    flags = own_flags(trained, data, **training)
    refuse(program, capsys, flags, "are yes, no", "0, 1; --cls_scope=NAME starts with a fresh")
    assert not (tmp_path / "new").exists()


def test_training_goes_on_with_the_labels_of_the_model(program, trained, tmp_path, capsys):
    changes = {"init_checkpoint": trained / "run", "model_dir": tmp_path / "run"}
    changes |= {"train_steps": 1, "warmup_steps": 2, "learning_rate": 0.0, "do_eval": True}
    flags = own_flags(trained, trained / "own", output_dir=tmp_path / "records", **changes)
    assert invoke(program, flags) == 0
    assert json.loads((tmp_path / "run" / "labels.json").read_text())["labels"] == list(LABELS)
    score = json.loads((tmp_path / "run" / "best_result.json").read_text())["score"]
    assert score == json.loads((trained / "run" / "best_result.json").read_text())["score"]
    assert "warmup_steps=2, but the run has 1 steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"labels": "yes"}, "should be a list of names"),
        ({"labels": [0, 1]}, "should be a list of names"),
        ({"labels": ["yes", "no", "maybe"]}, "a head of 2 outputs needs as many"),
        ({"problem_type": ["x"]}, "problem_type: ['x'] should be a name"),
        ({"problem_type": MULTI_LABEL}, "several labels hold at a time, for which f1 is no metric"),
    ],
)
def test_a_labels_file_that_does_not_fit(program, trained, tmp_path, capsys, values, words):
    run = tmp_path / "run"
    shutil.copytree(trained / "run", run)
    known = json.loads((run / "labels.json").read_text())
    (run / "labels.json").write_text(json.dumps(known | values))
    flags = evaluation_flags(trained, tmp_path, trained / "own", eval_model_dir=run)
    # Own data is read as a model of several labels asks for, but not scored by a metric of one.
    more = ["--metric=f1"] if values.get("problem_type") == MULTI_LABEL else []
    refuse(program, capsys, [*flags, *more], words)
