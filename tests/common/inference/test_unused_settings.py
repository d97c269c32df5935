"""Settings of predict.py that would have no effect are refused."""

import pytest

from funnel.cli.feature_extraction import FileSettings
from funnel.cli.predict import PredictFiles, PredictSettings
from funnel.config.heads import MULTI_LABEL, SINGLE_LABEL
from funnel.config.predictions import InputFileSettings, PredictorConfig
from funnel.inference.input_files import InputFile
from funnel.inference.rows import QUESTION_ANSWERING
from funnel.inference.saved_model import ModelHead, row_format
from funnel.utils.errors import ConfigError


@pytest.mark.parametrize("name", ["o.tsv", "o.jsonl.gz", "o.csv.BZ2", "o.parquet", "o.json"])
def test_names_of_outputs(name):
    with pytest.raises(ConfigError, match=f"--output={name}: predictions are csv or jsonl"):
        PredictSettings(files=PredictFiles("m", "i.txt", name)).check()


@pytest.mark.parametrize("name", ["o.csv", "o.jsonl", "o.npz.gz", "O.TXT"])
def test_names_of_extracted_features(name):
    with pytest.raises(ConfigError, match=f"--output={name}: the file is an .npz or .npy"):
        FileSettings("m", text="a.txt", ids=None, output=name)
    assert FileSettings("m", text="a.txt", ids=None, output="features").output == "features"


@pytest.mark.parametrize("name", ["o.csv", "o.jsonl", "o.txt", "o", "o.predictions", "-"])
def test_names_that_are_written(name):
    PredictSettings(files=PredictFiles("m", "i.txt", name)).check()
    PredictSettings(files=PredictFiles("m", "i.txt", "o.tsv", format="csv")).check()


@pytest.mark.parametrize(
    ("path", "settings", "flag"),
    [
        ("a.txt", {"text_column": "0"}, "text_column"),
        ("a.txt", {"text_b_column": "b"}, "text_b_column"),
        ("-", {"id_column": "id"}, "id_column"),
        ("a.txt", {"delimiter": ","}, "delimiter"),
        ("a.jsonl", {"delimiter": ","}, "delimiter"),
        ("a.json.gz", {"header": False}, "no_header"),
        ("a.parquet", {"header": False}, "no_header"),
    ],
)
def test_columns_of_files_without_them(path, settings, flag):
    with pytest.raises(ConfigError, match=f"{path}: --{flag} does not apply to the form"):
        InputFile(path, InputFileSettings(**settings), SINGLE_LABEL)


def test_columns_of_tables():
    settings = InputFileSettings(text_column="0", id_column="1", header=False, delimiter=";")
    assert InputFile("a.csv", settings, SINGLE_LABEL).file_format == "csv"
    InputFile("a.jsonl", InputFileSettings(text_column="x", id_column="y"), SINGLE_LABEL)


@pytest.mark.parametrize(
    "settings",
    [{"threshold": 0.6}, {"na_threshold": 0.0}, {"doc_stride": 9}, {"max_query_length": 9}],
)
def test_settings_of_other_heads(settings):
    (name,) = settings
    wanted = MULTI_LABEL if name == "threshold" else QUESTION_ANSWERING
    config = PredictorConfig(**settings)
    row_format(ModelHead(wanted), config)
    with pytest.raises(ConfigError, match=f"{name} is for models of {wanted}; this one"):
        row_format(ModelHead(SINGLE_LABEL, ("a", "b"), 2), config)
