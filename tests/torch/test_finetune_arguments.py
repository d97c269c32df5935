"""Arguments of ``funnel_torch.finetune`` that would give another result than meant, or none."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from funnel.config.model import ModelConfig
from funnel.tokenization import get_tokenizer
from funnel.utils.errors import ConfigError, DataError, RunError
from funnel_torch import FunnelForSequenceClassification, finetune
from funnel_torch.tasks.api_config import FinetuneOptions
from funnel_torch.tasks.in_memory import LabelRequest, build_task, read_rows

torch.set_num_threads(1)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"]
SIZES = {"d_model": 8, "d_embed": 8, "n_head": 1, "d_head": 8, "d_inner": 8}
CONFIG = ModelConfig(vocab_size=len(WORDS), block_size="1_1", **SIZES)
ROWS = [("good film", "pos"), ("bad film", "neg")] * 4
QUICK = {"epochs": 1, "max_length": 8, "batch_size": 4}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("".join(f"{word}\n" for word in WORDS))
    return get_tokenizer("word_piece", path)


@pytest.fixture(scope="module")
def trained(tokenizer):
    return finetune(CONFIG, ROWS, tokenizer=tokenizer, **QUICK)


def test_labelled_tuples_are_not_predicted_as_pairs(trained):
    with pytest.raises(DataError, match=r"trained on single texts, these are pairs \(of labelled"):
        trained.predict(ROWS)
    with pytest.raises(DataError, match="trained on single texts"):
        trained.evaluate([("good", "film", "pos")])
    assert len(trained.predict([text for text, _ in ROWS])) == len(ROWS)


def test_dev_data_have_the_form_of_the_training_data(tokenizer):
    pairs = [(text, text, label) for text, label in ROWS]
    with pytest.raises(DataError, match="dev: the model is trained on pairs, these are single"):
        finetune(CONFIG, pairs, ROWS, tokenizer=tokenizer, **QUICK)


def test_a_column_that_is_there_twice_is_refused():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame([["a", "b", "x"], ["c", "d", "y"]], columns=["text", "text", "label"])
    with pytest.raises(DataError, match="train: has 2 columns 'text'"):
        read_rows("train", table)


@pytest.mark.parametrize("form", ["numpy", "torch"])
def test_class_labels_of_formatted_datasets_are_found(form):
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["neg", "pos"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label})
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    rows = read_rows("train", data.with_format(form)).rows
    assert [row.label for row in rows] == ["pos", "neg"]


def test_one_class_is_named():
    rows = read_rows("train", [("a", "x"), ("b", "x")])
    with pytest.raises(DataError, match="train: every label is 'x'; at least two labels"):
        build_task(rows, LabelRequest())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 1.5}, "epochs=1.5 is a float, should be of type int"),
        ({"lr": "1e-3"}, "lr='1e-3' is a str, should be of type float"),
        ({"epochs": True}, "epochs=True is a bool, should be of type int"),
        ({"new_head": "no"}, "new_head='no' is a str, should be of type bool"),
        ({"freeze": ["embeddings"]}, "freeze=.* is a list, should be of type str"),
        ({"train_steps": 2.5}, "train_steps=2.5 is a float"),
        ({"extend_to": 1}, "^extend_to=1: must be more"),
    ],
)
def test_options_of_other_types_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        finetune(CONFIG, ROWS, **options)


def test_numbers_of_numpy_are_recorded_as_those_of_python():
    given = {"epochs": np.int64(2), "lr": np.float32(0.5), "warmup_prop": np.float64(0.5)}
    record = FinetuneOptions.build(given).to_record()
    found = (record["epochs"], record["lr"], record["more"]["warmup_prop"])
    assert found == (2, 0.5, 0.5) and [type(value) for value in found] == [int, float, float]


def test_a_run_is_extended_and_messages_name_arguments(tokenizer, tmp_path):
    options = {**QUICK, "tokenizer": tokenizer, "output_dir": tmp_path / "run"}
    finetune(CONFIG, ROWS, ROWS, **options)
    longer = finetune(CONFIG, ROWS, ROWS, **options, extend_to=2)
    assert max(row["step"] for row in longer.history) == 4
    with pytest.raises(RunError, match="another output_dir, or overwrite=True") as raised:
        finetune(CONFIG, ROWS, ROWS, **{**options, "seed": 1})
    assert "--" not in str(raised.value)


def test_a_returned_model_that_trains_on_keeps_its_labels(tokenizer, caplog, tmp_path):
    """As an object: in another order of labels than the sorted one, every answer would be wrong."""
    options = {**QUICK, "tokenizer": tokenizer, "lr": 0.0}
    first = finetune(CONFIG, ROWS, labels=["pos", "neg"], **options)
    texts = [text for text, _ in ROWS[:2]]
    again = finetune(first.model, ROWS, **options)
    assert again.labels == ("pos", "neg") and again.predict(texts) == first.predict(texts)
    loaded = FunnelForSequenceClassification.from_pretrained(first.save(tmp_path / "model"))
    assert finetune(loaded, ROWS, **options).labels == ("pos", "neg")
    assert "does not name its labels" not in caplog.text


def test_blanks_around_labels_are_no_part_of_them(tokenizer):
    rows = [("good", "pos"), ("bad", "neg"), ("bad", "neg ")]
    assert finetune(CONFIG, rows, tokenizer=tokenizer, **QUICK).labels == ("neg", "pos")
