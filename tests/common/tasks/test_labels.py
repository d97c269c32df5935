"""Labels as they are written in files: blanks, case, quotes, missing values, placeholders."""

import json
import logging

import pytest

from funnel.config.heads import MULTI_LABEL, REGRESSION, SINGLE_LABEL, SavedHead
from funnel.tasks import CustomTaskConfig, get_task
from funnel.tasks.labels import LabelMatcher, match_order
from funnel.tasks.metrics import compute
from funnel.tasks.saved_labels import take_labels
from funnel.tasks.submission import find_companion, write_submission
from funnel.utils.errors import CheckpointError, ConfigError, DataError
from task_files import write


def write_csv(path, labels):
    return write(path, "text,label\n" + "".join(f"t{i},{x}\n" for i, x in enumerate(labels)))


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.INFO, "funnel")
    return caplog


class TestFiles:
    @pytest.mark.parametrize("blank", [" ", "  ", "\u00a0", "\u3000", "\u200b"])
    def test_blanks_around_labels_are_no_part_of_them(self, tmp_path, blank):
        write_csv(tmp_path / "train.csv", ["yes", f"yes{blank}", f"{blank}no", "no"])
        write_csv(tmp_path / "dev.csv", [f"{blank}yes", f"no{blank}{blank}"])
        task = get_task("csv").resolve_labels(tmp_path)
        assert task.labels == ("no", "yes")
        assert [e.label for e in task.load(tmp_path, "train")] == [1, 1, 0, 0]
        assert [e.label for e in task.load(tmp_path, "dev")] == [1, 0]

    def test_blanks_around_labels_of_known_tasks(self, tmp_path):
        header = "index\tsentence1\tsentence2\tlabel\n"
        write(tmp_path / "dev.tsv", header + "0\ta\tb\tentailment \n1\tc\td\tEntailment\n")
        examples, report = get_task("rte").read(tmp_path, "dev")
        assert [example.label for example in examples] == [0, 0]
        assert report.respelled == (("Entailment", "entailment", 1),)

    @pytest.mark.parametrize("label", ["nan", "NaN", "<NA>", "#N/A", "", " "])
    @pytest.mark.parametrize("name", ["csv", "jsonl"])
    def test_missing_labels_are_no_class(self, tmp_path, label, name):
        rows = ["yes", "no", label]
        if name == "csv":
            write_csv(tmp_path / "train.csv", rows)
        else:
            lines = [json.dumps({"text": "a", "label": row}) for row in rows]
            write(tmp_path / "train.jsonl", "\n".join(lines) + "\n")
        with pytest.raises(DataError, match=rf"train\.{name}:[34]: label '.*' (is|stands)"):
            get_task(name).resolve_labels(tmp_path)

    def test_a_bare_nan_of_json_is_no_class(self, tmp_path):
        write(
            tmp_path / "train.jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": NaN}\n'
        )
        with pytest.raises(DataError, match=r"train\.jsonl:2: label 'NaN' stands"):
            get_task("jsonl").resolve_labels(tmp_path)

    def test_a_class_may_be_called_nan_if_that_is_stated(self, tmp_path):
        write_csv(tmp_path / "train.csv", ["nan", "bread"])
        task = get_task("csv", custom=CustomTaskConfig("csv", labels=("nan", "bread")))
        assert [e.label for e in task.load(tmp_path, "train")] == [0, 1]

    @pytest.mark.parametrize("slip", ["Good", 'good"', "'good'", "go od", "ＧＯＯＤ"])
    def test_a_slip_is_named_with_file_and_line(self, tmp_path, messages, slip):
        write_csv(tmp_path / "train.csv", ["good"] * 5 + ["bad"] * 5 + [slip])
        assert len(get_task("csv").resolve_labels(tmp_path).labels) == 3
        place = (
            f"{tmp_path / 'train.csv'}:12: label {slip!r} (1 line) differs from 'good' (5 lines)"
        )
        assert place in messages.text
        assert "labels of one line only" not in messages.text

    def test_a_label_of_one_line_is_named(self, tmp_path, messages):
        write_csv(tmp_path / "train.csv", ["good"] * 5 + ["bda", "bad", "bad"])
        get_task("csv").resolve_labels(tmp_path)
        assert f"one line only: 'bda' ({tmp_path / 'train.csv'}:7)" in messages.text

    @pytest.mark.parametrize(
        ("labels", "words"),
        [
            (["None", "a", "None", "a"], "train.csv:2: label 'None' (2 lines) is a class; does it"),
            ([str(i / 4) for i in range(40)], "40 different numbers such as '0.0' are classes"),
            (["-1", "0", "1", "2"] * 2, "label -1 (2 lines) is a class; published data"),
        ],
    )
    def test_doubtful_classes_are_named(self, tmp_path, messages, labels, words):
        write_csv(tmp_path / "train.csv", labels)
        get_task("csv").resolve_labels(tmp_path)
        assert words in messages.text

    @pytest.mark.parametrize("labels", [["-1", "1", "0"] * 2, ["1", "2", "3"], ["C", "D"] * 3])
    def test_ordinary_labels_give_no_warning(self, tmp_path, messages, labels):
        write_csv(tmp_path / "train.csv", labels)
        get_task("csv").resolve_labels(tmp_path)
        assert not messages.records

    def test_placeholders_of_a_test_file_mean_unlabelled(self, tmp_path):
        write_csv(tmp_path / "train.csv", ["0", "1"])
        task = get_task("csv").resolve_labels(tmp_path)
        for label in ("-1", "", "nan", " -1 "):
            write_csv(tmp_path / "test.csv", [label] * 3)
            examples, report = task.read(tmp_path, "test")
            assert {example.label for example in examples} == {None}
            assert (report.unlabelled, report.labels) == (3, {})
        write_csv(tmp_path / "test.csv", ["7", "1"])
        with pytest.raises(DataError, match=r"test\.csv:2: unknown label '7'"):
            task.load(tmp_path, "test")
        write_csv(tmp_path / "dev.csv", ["-1", "1"])
        with pytest.raises(DataError, match=r"dev\.csv:2: unknown label '-1'"):
            task.load(tmp_path, "dev")

    def test_minus_one_may_be_a_class(self, tmp_path):
        write_csv(tmp_path / "train.csv", ["-1", "1"] * 2)
        write_csv(tmp_path / "test.csv", ["-1", "-1"])
        task = get_task("csv").resolve_labels(tmp_path)
        assert [e.label for e in task.load(tmp_path, "test")] == [0, 0]

    def test_placeholders_of_a_regression(self, tmp_path):
        task = get_task("csv", custom=CustomTaskConfig("csv", regression=True))
        write_csv(tmp_path / "test.csv", ["-1", "-1.0"])
        assert [e.label for e in task.load(tmp_path, "test")] == [None, None]
        write_csv(tmp_path / "test.csv", ["-1", "0.5"])
        assert [e.label for e in task.load(tmp_path, "test")] == [-1.0, 0.5]
        write_csv(tmp_path / "dev.csv", ["-1", "-1"])
        assert [e.label for e in task.load(tmp_path, "dev")] == [-1.0, -1.0]

    def test_another_case_is_the_same_class_and_is_said(self, tmp_path, messages):
        write_csv(tmp_path / "train.csv", ["yes", "no", "yes", "no"])
        write_csv(tmp_path / "dev.csv", ["YES", "n o", "YES"])
        task = get_task("csv").resolve_labels(tmp_path)
        assert [e.label for e in task.load(tmp_path, "dev")] == [1, 0, 1]
        assert "labels read 'YES' as 'yes' (2 rows), 'n o' as 'no' (1 rows)" in messages.text

    def test_an_ambiguous_case_is_no_class(self):
        matcher = LabelMatcher(("yes", "Yes", "no"))
        assert [matcher.find(x) for x in ("yes", "Yes", "YES", "NO")] == [0, 1, None, 2]

    @pytest.mark.parametrize(("labels", "words"), [("a,,b", "is empty"), ("a, a", "listed twice")])
    def test_a_list_of_labels_on_the_command_line(self, labels, words):
        from funnel.config.inputs import CustomTaskSettings
        from funnel.tasks.custom import build_custom_task, custom_task_config

        config = custom_task_config("csv", CustomTaskSettings(labels="no , yes"))
        assert config.labels == ("no", "yes")
        with pytest.raises(ConfigError, match=words):
            build_custom_task(custom_task_config("csv", CustomTaskSettings(labels=labels)))


def test_labels_of_a_known_task_cannot_be_set(messages):
    from funnel.config.inputs import CustomTaskSettings
    from funnel.tasks.custom import custom_task_config

    assert custom_task_config("rte", CustomTaskSettings()) is None
    assert not messages.records
    assert custom_task_config("rte", CustomTaskSettings(labels="a,b", metric="f1")) is None
    assert (
        "labels, metric are for tsv, csv, jsonl, json, parquet, not used by task rte"
        in messages.text
    )


def head(labels, kind=SINGLE_LABEL, outputs=None):
    return SavedHead("m", len(labels) if outputs is None else outputs, labels, kind)


class TestModels:
    def test_own_files_take_names_and_order_of_the_model(self, tmp_path):
        write_csv(tmp_path / "test.csv", ["a", "b", "c"])
        task = take_labels(get_task("csv"), head(("c", "a", "b")), tmp_path)  # no training file
        assert task.labels == ("c", "a", "b")
        assert [e.label for e in task.load(tmp_path, "test")] == [1, 2, 0]
        write_csv(tmp_path / "test.csv", ["a", "d"])
        with pytest.raises(DataError, match=r"test.csv:3: unknown label 'd'.*the labels of m"):
            task.load(tmp_path, "test")

    def test_another_order_or_case_is_permuted_and_said(self, messages):
        names = ("ENTAILMENT", "neutral ", "Contradiction")
        task = take_labels(get_task("mnli"), head(names))
        assert task.labels == ("entailment", "neutral", "contradiction")
        assert "0 = entailment, 1 = neutral, 2 = contradiction" in messages.text

    def test_the_same_labels_change_nothing(self, messages):
        task = get_task("mnli")
        assert take_labels(task, head(task.labels)) == task
        assert not messages.records

    @pytest.mark.parametrize(
        "names", [("0", "1", "2"), ("neutral", "neutral_", "entailment"), ("a", "b", "c")]
    )
    def test_other_names_are_refused_with_both(self, names):
        with pytest.raises(ConfigError, match=f"model are {', '.join(names)}, those of .*neutral"):
            take_labels(get_task("mnli"), head(names))
        with pytest.raises(ConfigError, match="; --new_head$"):
            take_labels(get_task("mnli"), head(names), remedy="--new_head")

    @pytest.mark.parametrize("names", [("a", "a"), ("a", " a"), ("a",), ("a", "b", "c")])
    def test_names_that_do_not_fit_the_head(self, names):
        with pytest.raises(CheckpointError, match="a head of 2 outputs needs as many different"):
            take_labels(get_task("csv"), head(names, outputs=2))

    def test_unnamed_outputs_are_taken_in_the_order_of_the_task(self, tmp_path, messages):
        assert take_labels(get_task("mnli"), head(None, outputs=3)) == get_task("mnli")
        assert "does not name its labels" in messages.text
        with pytest.raises(CheckpointError, match="has 2 outputs, the task needs 3"):
            take_labels(get_task("mnli"), head(None, outputs=2))
        write_csv(tmp_path / "train.csv", ["b", "a"] * 2)
        assert take_labels(get_task("csv"), head(None, outputs=2), tmp_path).labels == ("a", "b")

    def test_unnamed_outputs_without_training_file(self, tmp_path):
        task = take_labels(get_task("csv"), head(None, outputs=3), tmp_path)
        assert task.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
        write_csv(tmp_path / "dev.csv", ["2", "LABEL_1", "label_0"])
        assert [e.label for e in task.load(tmp_path, "dev")] == [2, 1, 0]
        write_csv(tmp_path / "dev.csv", ["good"])
        with pytest.raises(DataError, match="unknown label 'good'.*--labels names them"):
            task.load(tmp_path, "dev")

    @pytest.mark.parametrize("kind", [REGRESSION, None])
    def test_a_model_of_numbers(self, tmp_path, kind):
        number = head(None, kind, outputs=1)
        task = take_labels(get_task("csv"), number, tmp_path)
        assert task.is_regression and task.metrics[0] == "pearson_spearman"
        assert take_labels(get_task("sts-b"), number) == get_task("sts-b")
        refused = get_task("csv", custom=CustomTaskConfig("csv", metric="macro_f1"))
        with pytest.raises(ConfigError, match="macro_f1 is no metric"):
            take_labels(refused, number)
        named = get_task("csv", custom=CustomTaskConfig("csv", labels=("a", "b")))
        with pytest.raises((ConfigError, CheckpointError), match="regression|1 outputs"):
            take_labels(named, number)

    def test_problem_types_that_differ(self):
        with pytest.raises(ConfigError, match="is single_label_classification, task sts-b is reg"):
            take_labels(get_task("sts-b"), head(("a", "b")))
        with pytest.raises(ConfigError, match="multi_label_classification: several labels"):
            take_labels(get_task("cola"), head(("0", "1"), MULTI_LABEL))
        with pytest.raises(CheckpointError, match="has 3 outputs, the task needs 1"):
            take_labels(get_task("sts-b"), head(None, REGRESSION, outputs=3))

    def test_metrics_and_submissions_follow_the_order(self, tmp_path):
        usual = get_task("mrpc")
        task = take_labels(usual, head(("1", "0")))
        ids = ([1, 1, 0, 0, 1], [1, 0, 0, 1, 1])
        flipped = [[1 - i for i in row] for row in ids]
        assert compute(task, *flipped) == compute(usual, *ids)
        wnli = take_labels(get_task("wnli"), head(("1", "0")))
        path = write_submission(wnli, [0, 0], tmp_path)
        assert path.read_text().splitlines()[1:] == ["0\t0", "1\t0"]

    def test_a_companion_has_the_same_order(self, tmp_path):
        write(tmp_path / "diagnostic.tsv", "index\tsentence1\tsentence2\n0\ta\tb\n")
        names = ("neutral", "entailment", "contradiction")
        found = find_companion(take_labels(get_task("mnli"), head(names)), tmp_path)
        assert found is not None and found[0].labels == names

    def test_the_order_of_labels(self):
        assert match_order(("a", "b"), ("B", "A ")) == ("a", "b")[::-1]
        for given in (("a",), ("a", "b", "c"), ("a", "a"), ("a", "c")):
            assert match_order(("a", "b"), given) is None
