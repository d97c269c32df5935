"""Predictor on directories that transformers wrote: its labels, its logits, without settings."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from funnel_torch import Predictor

SIZES = {"d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 32, "block_sizes": [1, 1]}
SIZES |= {"num_decoder_layers": 1}
SPECIAL = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>"]
PIECES = [*SPECIAL, "good", "bad", "film", "the", "plot", "##s", "where", "is"]
LABELS = {0: "down, low", 1: "up", 2: "flat"}
TEXTS = ["good film", "bad plots the good", "", "the the the the the the the the film"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    vocabulary = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    vocabulary.write_text("".join(f"{piece}\n" for piece in PIECES))
    # Version 5 of transformers gives no segment ids without this, which its files record.
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return transformers.FunnelTokenizer(str(vocabulary), model_input_names=inputs)


def save(name, folder, tokenizer, **settings):
    """A model of transformers with random weights, saved with its tokenizer."""
    torch.manual_seed(0)
    config = transformers.FunnelConfig(vocab_size=len(PIECES), **SIZES, **settings)
    model = getattr(transformers, name)(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


LENGTH = 32


@torch.inference_mode()
def outputs(model, tokenizer, *texts, **settings):
    """Their outputs, padded as in training: the last pooling window of a text reaches into it."""
    settings |= {"padding": "max_length", "max_length": LENGTH, "return_tensors": "pt"}
    return model(**tokenizer(*texts, **settings))


def test_classification(tokenizer, tmp_path):
    label2id = {label: index for index, label in LABELS.items()}
    names = {"id2label": LABELS, "label2id": label2id}
    theirs = save("FunnelForSequenceClassification", tmp_path, tokenizer, **names)
    predictor = Predictor.from_pretrained(tmp_path, write_logits=True, max_length=LENGTH)
    inputs = [*TEXTS, ("good", "bad film")]
    for text, row in zip(inputs, predictor(inputs), strict=True):
        parts = (text,) if isinstance(text, str) else text
        logits = outputs(theirs, tokenizer, *parts).logits[0]
        assert list(row["logits"].values()) == pytest.approx(logits.tolist(), abs=2e-6)
        assert row["label"] == LABELS[int(logits.argmax())]


def test_question_answering(tokenizer, tmp_path):
    """Their question is the first text: segment 0, and 1 for the context."""
    theirs = save("FunnelForQuestionAnswering", tmp_path, tokenizer)
    question, context = "where is the film", "good film bad plots the good film is the bad"
    found = outputs(theirs, tokenizer, question, context)
    starts, ends = found.start_logits[0], found.end_logits[0]
    encoded = tokenizer(question, context, return_offsets_mapping=True)
    inside = [i for i, part in enumerate(encoded.sequence_ids()) if part == 1]
    predictor = Predictor.from_pretrained(tmp_path, write_logits=True, max_length=LENGTH)
    best = max((float(starts[i] + ends[j]), i, j) for i in inside for j in inside if i <= j)
    row = predictor((question, context))
    begin, end = encoded["offset_mapping"][best[1]][0], encoded["offset_mapping"][best[2]][1]
    assert row["label"] == context[begin:end]


def test_tokens_and_several_labels(tokenizer, tmp_path):
    theirs = save("FunnelForTokenClassification", tmp_path / "t", tokenizer, num_labels=3)
    words = ["good", "film", "plots", "bad"]
    predictor = Predictor.from_pretrained(tmp_path / "t", write_logits=True, max_length=LENGTH)
    row = predictor(" ".join(words))
    encoded = tokenizer(words, is_split_into_words=True)
    logits = outputs(theirs, tokenizer, words, is_split_into_words=True).logits[0].numpy()
    first = [encoded.word_ids().index(i) for i in range(len(words))]
    assert np.abs(np.array(row["logits"]) - logits[first]).max() < 2e-6
    assert set(row["label"]) <= {"LABEL_0", "LABEL_1", "LABEL_2"}
    kind = {"problem_type": "multi_label_classification", "num_labels": 3}
    theirs = save("FunnelForSequenceClassification", tmp_path / "m", tokenizer, **kind)
    row = Predictor.from_pretrained(tmp_path / "m", threshold=0.4, max_length=LENGTH)("good film")
    expected = torch.sigmoid(outputs(theirs, tokenizer, "good film").logits[0])
    chosen = [f"LABEL_{i}" for i, p in enumerate(expected.tolist()) if p >= 0.4]
    assert row["label"] == chosen
