"""The table of tasks: names, columns, labels, metrics, as the published files have them."""

import pytest

from funnel.config.inputs import CustomTaskSettings
from funnel.tasks import CustomTaskConfig, Example, get_task, task_names
from funnel.tasks.base import Task
from funnel.tasks.custom import custom_task_config
from funnel.tasks.tables import Source
from funnel.utils.errors import ConfigError, DataError
from task_files import table, write


def row(width, **cells):
    """One tab-separated line of ``width`` columns; cells are named c0, c1 ..."""
    values = [cells.get(f"c{i}", f"x{i}") for i in range(width)]
    return "\t".join(values) + "\n"


# name, training file, its content, test file, its content
GLUE_FILES = [
    ("cola", "train.tsv", row(4, c1="1", c3="A."), "test.tsv", row(2) + row(2, c1="T")),
    ("sst-2", "train.tsv", "sentence\tlabel\nA.\t1\n", "test.tsv", row(2) + row(2, c1="T")),
    ("mrpc", "train.tsv", row(5) + row(5, c0="1", c3="A.", c4="B"), "test.tsv",
     row(5) + row(5, c3="T", c4="U")),
    ("qqp", "train.tsv", row(6) + row(6, c5="1", c3="A.", c4="B"), "test.tsv",
     row(3) + row(3, c1="T", c2="U")),
    ("qnli", "train.tsv", row(4) + row(4, c3="not_entailment", c1="A.", c2="B"), "test.tsv",
     row(3) + row(3, c1="T", c2="U")),
    ("rte", "train.tsv", row(4) + row(4, c3="not_entailment", c1="A.", c2="B"), "test.tsv",
     row(3) + row(3, c1="T", c2="U")),
    ("wnli", "train.tsv", row(4) + row(4, c3="1", c1="A.", c2="B"), "test.tsv",
     row(3) + row(3, c1="T", c2="U")),
    ("mnli_matched", "train.tsv", row(12) + row(12, c11="entailment", c8="A.", c9="B"),
     "test_matched.tsv", row(10) + row(10, c8="T", c9="U")),
    ("mnli_mismatched", "train.tsv", row(12) + row(12, c11="entailment", c8="A.", c9="B"),
     "test_mismatched.tsv", row(10) + row(10, c8="T", c9="U")),
]  # fmt: skip


@pytest.mark.parametrize("name, train, train_content, test, test_content", GLUE_FILES)
def test_columns_of_glue(tmp_path, name, train, train_content, test, test_content):
    write(tmp_path / train, train_content)
    write(tmp_path / test, test_content)
    task = get_task(name)
    pair = name not in ("cola", "sst-2")
    assert task.load(tmp_path, "train") == [Example("A.", "B" if pair else None, 1)]
    assert task.load(tmp_path, "test") == [Example("T", "U" if pair else None, None)]


def test_label_of_mnli_is_the_last_of_16_columns(tmp_path):
    write(tmp_path / "dev_matched.tsv", row(16) + row(16, c8="A", c9="B", c11="-", c15="neutral"))
    assert get_task("mnli_matched").load(tmp_path, "dev") == [Example("A", "B", 2)]


def test_sts_b_is_regression(tmp_path):
    write(tmp_path / "dev.tsv", row(10) + row(10, c7="A", c8="B", c9="3.250"))
    task = get_task("sts-b")
    (example,) = task.load(tmp_path, "dev")
    assert example == Example("A", "B", 3.25)
    assert isinstance(example.label, float)
    assert (task.is_regression, task.num_labels, task.labels) == (True, 1, None)


def test_snli_by_header_names_skips_and_counts_disagreement(tmp_path, caplog):
    header = "gold_label\tid\tsentence1\tsentence2\n"
    write(tmp_path / "dev.tsv", header + "-\t0\tA\tB\nneutral\t1\tC\tD\n-\t2\tE\tF\n")
    assert get_task("snli").load(tmp_path, "dev") == [Example("C", "D", 2)]
    assert "2 lines with the label '-'" in caplog.text


def test_diagnostic_has_only_a_test_split(tmp_path):
    write(tmp_path / "diagnostic.tsv", table("0 A B", header="index sentence1 sentence2"))
    task = get_task("diagnostic")
    assert task.load(tmp_path, "test") == [Example("A", "B", None)]
    assert task.splits == ("test",)
    assert task.eval_splits == ()
    with pytest.raises(DataError, match="no train split, only test"):
        task.load(tmp_path, "train")


def test_detokenized_sst2_is_preferred(tmp_path):
    write(tmp_path / "dev.tsv", "sentence\tlabel\nit 's good\t1\n")
    assert get_task("sst-2").load(tmp_path, "dev")[0].text_a == "it 's good"
    write(tmp_path / "dev.detok.tsv", "sentence\tlabel\nit's good\t1\n")
    assert get_task("sst-2").load(tmp_path, "dev")[0].text_a == "it's good"


TABLE = {
    "cola": ("0 1", "matthews_corr accuracy", "CoLA.tsv"),
    "sst-2": ("0 1", "accuracy", "SST-2.tsv"),
    "mrpc": ("0 1", "accuracy_f1 accuracy f1", "MRPC.tsv"),
    "qqp": ("0 1", "accuracy_f1 accuracy f1", "QQP.tsv"),
    "sts-b": (None, "pearson_spearman pearson spearman", "STS-B.tsv"),
    "mnli_matched": ("contradiction entailment neutral", "accuracy", "MNLI-m.tsv"),
    "mnli_mismatched": ("contradiction entailment neutral", "accuracy", "MNLI-mm.tsv"),
    "snli": ("contradiction entailment neutral", "accuracy", None),
    "qnli": ("entailment not_entailment", "accuracy", "QNLI.tsv"),
    "rte": ("entailment not_entailment", "accuracy", "RTE.tsv"),
    "wnli": ("0 1", "accuracy", "WNLI.tsv"),
    "diagnostic": ("contradiction entailment neutral", "", "AX.tsv"),
    "yelp2": ("1 2", "accuracy error_rate", None),
    "yelp5": ("1 2 3 4 5", "accuracy error_rate", None),
    "amazon2": ("1 2", "accuracy error_rate", None),
    "amazon5": ("1 2 3 4 5", "accuracy error_rate", None),
    "dbpedia": ("1 2 3 4 5 6 7 8 9 10 11 12 13 14", "accuracy error_rate", None),
    "ag": ("1 2 3 4", "accuracy error_rate", None),
    "imdb": ("neg pos", "accuracy error_rate", None),
}


@pytest.mark.parametrize("name", TABLE)
def test_labels_metrics_and_submission_file(name):
    labels, metrics, submission = TABLE[name]
    task = get_task(name)
    assert task.labels == (None if labels is None else tuple(labels.split()))
    assert task.metrics == tuple(metrics.split())
    assert task.submission_file == submission
    assert task.eval_splits == (() if name == "diagnostic" else ("dev",))


def test_all_names_are_known():
    assert task_names() == [*TABLE, "tsv", "csv", "jsonl", "json", "parquet"]
    assert [get_task(name).name for name in task_names()] == task_names()


@pytest.mark.parametrize(
    "alias, name",
    [
        *[("CoLA", "cola"), ("SST-2", "sst-2"), ("sst2", "sst-2"), ("STS-B", "sts-b")],
        *[("MNLI", "mnli_matched"), ("MNLI-m", "mnli_matched"), ("mnli-mm", "mnli_mismatched")],
        *[("stsb", "sts-b"), ("AX", "diagnostic"), ("AG_News", "ag"), ("AG", "ag")],
        *[("IMDB", "imdb"), ("Yelp-5", "yelp5"), ("amazon_review_full", "amazon5")],
        *[("DBpedia", "dbpedia"), ("TSV", "tsv")],
    ],
)
def test_aliases_and_case(alias, name):
    assert get_task(alias).name == name


def test_unknown_name_suggests_a_close_one():
    with pytest.raises(ConfigError, match=r"unknown task 'colla'; did you mean cola\? known: cola"):
        get_task("colla")


@pytest.mark.parametrize("name", ["amazon2", "amazon5", "dbpedia", "ag"])
def test_title_and_text_are_a_pair(tmp_path, name):
    write(tmp_path / "train.csv", '"2","A ""big"" title","one\\ntwo <br /> three"\n"1","","text"\n')
    assert get_task(name).load(tmp_path, "train") == [
        Example('A "big" title', "one two three", 1),
        Example("", "text", 0),
    ]


@pytest.mark.parametrize("name", ["yelp2", "yelp5"])
def test_yelp_is_one_text_and_dev_is_the_test_file(tmp_path, name):
    write(tmp_path / "test.csv", '"2","good, really"\n')
    task = get_task(name)
    expected = [Example("good, really", None, 1)]
    assert task.load(tmp_path, "dev") == task.load(tmp_path, "test") == expected


def test_backslash_does_not_escape_a_quote(tmp_path):
    write(tmp_path / "test.csv", '"1","ends in a backslash\\"\n"2","next"\n')
    examples = get_task("yelp2").load(tmp_path, "dev")
    assert [example.label for example in examples] == [0, 1]
    assert examples[0].text_a == "ends in a backslash"


def test_imdb_reads_folders_in_sorted_order(tmp_path):
    for name in ("pos/2_9.txt", "pos/10_9.txt", "neg/1_2.txt", "neg/0_3.txt", "unsup/0_0.txt"):
        write(tmp_path / "train" / name, f"{name}<br />!")
    examples = get_task("imdb").load(tmp_path, "train")
    assert [(e.text_a, e.label) for e in examples] == [
        ("neg/0_3.txt !", 0),
        ("neg/1_2.txt !", 0),
        ("pos/10_9.txt !", 1),
        ("pos/2_9.txt !", 1),
    ]
    assert len(get_task("imdb").input_files(tmp_path, "train")) == 4


class TestCustom:
    def test_tsv_with_default_columns(self, tmp_path):
        write(tmp_path / "train.tsv", 'label\ttext\nspam\t"buy\nham\thello\n')
        task = get_task("tsv").resolve_labels(tmp_path)
        assert task.labels == ("ham", "spam")
        assert task.num_labels == 2
        assert task.load(tmp_path, "train") == [Example('"buy', None, 1), Example("hello", None, 0)]

    def test_labels_of_the_training_file_hold_for_every_split(self, tmp_path):
        write(tmp_path / "train.csv", "text,label\nx,10\ny,9\nz,10\n")
        write(tmp_path / "dev.csv", "label,text\n10,u\n")
        write(tmp_path / "test.csv", "text\nv\n")
        task = get_task("csv").resolve_labels(tmp_path)
        assert task.labels == ("9", "10")
        assert task.load(tmp_path, "dev") == [Example("u", None, 1)]
        assert task.load(tmp_path, "test") == [Example("v", None, None)]

    def test_jsonl_pairs_with_given_label_order(self, tmp_path):
        config = CustomTaskConfig("jsonl", "q", "d", "y", labels=("true", "false"), metric="f1")
        write(tmp_path / "train.jsonl", '{"q": "a", "d": "b", "y": false}\n')
        write(tmp_path / "test.jsonl", '{"q": "a", "d": "b"}\n{"q": "", "d": "c", "y": true}\n')
        task = get_task("jsonl", custom=config)
        assert task.load(tmp_path, "train") == [Example("a", "b", 1)]
        assert task.load(tmp_path, "test") == [Example("a", "b", None), Example("", "c", 0)]
        assert task.metrics[0] == "f1"

    def test_positions_delimiter_and_file_names(self, tmp_path):
        config = CustomTaskConfig(
            "csv", 1, label=-1, header=False, delimiter=";", regression=True, train_file="all.txt"
        )
        write(tmp_path / "all.txt", "7;a;-1e3\n8;b;2\n")
        task = get_task("csv", custom=config)
        assert task.load(tmp_path, "train") == [
            Example("a", None, -1000.0),
            Example("b", None, 2.0),
        ]
        assert task.num_labels == 1
        assert task.metrics == ("pearson_spearman", "pearson", "spearman")

    def test_labels_are_unknown_before_the_data_is_read(self):
        with pytest.raises(DataError, match="labels are unknown"):
            _ = get_task("tsv").num_labels

    def test_labels_need_the_training_file(self, tmp_path):
        write(tmp_path / "test.tsv", "text\nx\n")
        with pytest.raises(DataError, match=r"no train\.tsv, which task tsv needs as train data"):
            get_task("tsv").resolve_labels(tmp_path)
        with pytest.raises(DataError, match="labels are unknown"):
            get_task("tsv").load(tmp_path, "test")

    def test_empty_label_in_the_training_file(self, tmp_path):
        write(tmp_path / "train.tsv", "text\tlabel\nx\ta\ny\t\n")
        with pytest.raises(DataError, match=r"train\.tsv:3: label '' is empty"):
            get_task("tsv").resolve_labels(tmp_path)

    def test_one_label_is_not_enough(self, tmp_path):
        write(tmp_path / "train.tsv", "text\tlabel\nx\ta\ny\ta\n")
        with pytest.raises(DataError, match=r"train\.tsv: every label is 'a'; two are needed"):
            get_task("tsv").resolve_labels(tmp_path)

    @pytest.mark.parametrize(
        "settings, message",
        [
            ({"format": "xml"}, "format 'xml' is not one of tsv, csv, jsonl"),
            ({"labels": ("a", "a")}, "a label is listed twice"),
            ({"labels": ()}, "the list of labels is empty"),
            ({"labels": ("a", "b"), "regression": True}, "labels and regression exclude"),
            ({"header": False}, "--text_column=text: without a header, give a position, from 0"),
            ({"text_a": "label"}, "--text_column and --label_column are both 'label'"),
            ({"delimiter": "||"}, "must be one character"),
            ({"delimiter": '"'}, "cannot be a quote"),
            ({"format": "jsonl", "delimiter": ","}, "must be one character"),
            ({"format": "jsonl", "text_a": 0}, "--text_column=0: in jsonl a column is a key"),
            ({"metric": "bleu"}, "metric 'bleu' is not one for classification"),
            ({"metric": "f1", "regression": True}, "metric 'f1' is not one for regression"),
            ({"metric": "f1", "labels": ("a", "b", "c")}, "use macro_f1"),
        ],
    )
    def test_settings_that_contradict(self, settings, message):
        from funnel.tasks.custom import build_custom_task

        with pytest.raises(ConfigError, match=message):
            build_custom_task(CustomTaskConfig(**settings))

    def test_command_line_settings(self):
        settings = CustomTaskSettings("0", "-1", "y", labels="a,b", delimiter="\\t", header=False)
        assert custom_task_config("TSV", settings) == CustomTaskConfig(
            "tsv", 0, -1, "y", ("a", "b"), header=False, delimiter="\t"
        )
        assert custom_task_config("csv", CustomTaskSettings(delimiter="tab")).delimiter == "\t"
        assert custom_task_config("csv", CustomTaskSettings(header=False)).header is False
        assert custom_task_config("csv", CustomTaskSettings()) == CustomTaskConfig("csv")
        assert custom_task_config("rte", CustomTaskSettings()) is None
        assert custom_task_config(None, CustomTaskSettings()) is None

    def test_a_column_of_jsonl_is_a_key_even_if_it_is_a_number(self):
        assert custom_task_config("jsonl", CustomTaskSettings("0")).text_a == "0"

    def test_configuration_of_another_format_or_task(self):
        with pytest.raises(ConfigError, match="custom format is 'csv', not 'tsv'"):
            get_task("tsv", custom=CustomTaskConfig("csv"))
        with pytest.raises(ConfigError, match="known task cannot be set"):
            get_task("rte", custom=CustomTaskConfig("tsv"))


def test_a_task_is_a_plain_record(tmp_path):
    sources = {"train": Source(("t.tsv",), text_a=0, label=1, header=False)}
    task = Task("mine", ("no", "yes"), sources, ("accuracy",))
    write(tmp_path / "t.tsv", "a\tyes\n")
    assert task.load(tmp_path, "train") == [Example("a", None, 1)]
    assert hash(task) == hash(Task("mine", ("no", "yes"), sources, ("accuracy",)))
