"""Prediction files, and submission files in the format of the GLUE server."""

import numpy as np
import pytest

from funnel.tasks import CustomTaskConfig, get_task, task_names
from funnel.tasks.predictions import write_predictions
from funnel.tasks.submission import find_companion, write_submission
from funnel.utils.errors import DataError
from task_files import write


def lines(path):
    return path.read_text().split("\n")


def test_labels_are_written_as_text(tmp_path):
    path = write_submission(get_task("rte"), np.array([1, 0]), tmp_path / "new")
    assert path == tmp_path / "new" / "RTE.tsv"
    assert path.read_bytes() == b"index\tprediction\n0\tnot_entailment\n1\tentailment\n"


def test_scores_are_cut_to_the_range_not_rescaled(tmp_path):
    path = write_submission(get_task("sts-b"), np.array([-0.2, 1.23456, 5.7]), tmp_path)
    assert lines(path)[1:] == ["0\t0.000", "1\t1.235", "2\t5.000", ""]


def test_wnli_is_the_majority_class(tmp_path):
    path = write_submission(get_task("wnli"), np.ones(146, int), tmp_path)
    assert lines(path)[1:] == [f"{i}\t0" for i in range(146)] + [""]


def test_names_of_all_files(tmp_path):
    tasks = [get_task(name) for name in task_names()]
    for task in tasks:
        if task.submission_file:
            assert len(lines(write_submission(task, [0, 0, 0], tmp_path))) == 5
    stems = ["CoLA", "SST-2", "MRPC", "QQP", "STS-B", "MNLI-m", "MNLI-mm", "QNLI", "RTE", "WNLI"]
    assert {path.name for path in tmp_path.iterdir()} == {f"{stem}.tsv" for stem in [*stems, "AX"]}


def test_tasks_without_a_benchmark(tmp_path):
    task = get_task("jsonl", custom=CustomTaskConfig("jsonl", labels=("no", "yes")))
    path = write_submission(task, [1], tmp_path)
    assert (path.name, lines(path)[1]) == ("predictions.tsv", "0\tyes")


@pytest.mark.parametrize("values", [[0, 2], [0, -1], [0, 0.5], [0, np.nan]])
def test_not_a_class(tmp_path, values):
    with pytest.raises(DataError, match=r"prediction 1 is .*, not a class id from 0 to 1"):
        write_submission(get_task("rte"), values, tmp_path)
    assert not list(tmp_path.iterdir())


def test_not_a_score(tmp_path):
    with pytest.raises(DataError, match="prediction 0 is not a number"):
        write_submission(get_task("sts-b"), [np.nan], tmp_path)


def test_unresolved_labels(tmp_path):
    with pytest.raises(DataError, match="labels are unknown"):
        write_submission(get_task("tsv"), [0], tmp_path)


def test_prediction_files(tmp_path):
    path = tmp_path / "new" / "r.txt"
    write_predictions(path, get_task("rte"), np.array([1, 0]))
    assert path.read_bytes() == b"not_entailment\nentailment\n"
    write_predictions(path, get_task("rte"), np.array([1, 0]), indexed=True)
    assert path.read_bytes() == b"index\tprediction\n0\tnot_entailment\n1\tentailment\n"
    write_predictions(path, get_task("sts-b"), np.array([1.5, -7.0], np.float32))
    assert path.read_bytes() == b"1.500000\n-7.000000\n"
    write_predictions(path, get_task("sts-b"), np.array([1.5, -7.0], np.float32), indexed=True)
    assert path.read_bytes() == b"index\tprediction\n0\t1.500000\n1\t-7.000000\n"
    with pytest.raises(DataError, match="prediction 0 is 2, not a class id from 0 to 1"):
        write_predictions(path, get_task("rte"), [2])


class TestCompanion:
    @pytest.mark.parametrize(
        "place",
        ["MNLI/diagnostic.tsv", "diagnostic/diagnostic.tsv", "AX/AX.tsv", "diagnostic.tsv"],
    )
    def test_mnli_also_submits_the_diagnostic_set(self, tmp_path, place):
        write(tmp_path / place, "index\tsentence1\tsentence2\n0\ta\tb\n")
        (tmp_path / "MNLI").mkdir(exist_ok=True)
        task, folder = find_companion(get_task("mnli"), tmp_path / "MNLI")
        assert len(task.load(folder, "test")) == 1
        assert write_submission(task, [1], tmp_path).name == "AX.tsv"

    def test_missing_diagnostic_set_is_said(self, tmp_path, caplog):
        assert find_companion(get_task("mnli"), tmp_path) is None
        assert "AX.tsv is not written" in caplog.text

    @pytest.mark.parametrize("name", ["mnli_mismatched", "rte", "diagnostic"])
    def test_other_tasks_have_none(self, tmp_path, name, caplog):
        assert find_companion(get_task(name), tmp_path) is None
        assert not caplog.records
