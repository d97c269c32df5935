"""``extract_features.py`` end to end, and its errors for bad input."""

from pathlib import Path

import numpy as np
import pytest

import program_server
from funnel.config.model import ModelConfig

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from funnel_torch import FunnelForPreTraining, FunnelForSequenceClassification

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "pytorch" / "extract_features.py"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##d", "."]
CONFIG = ModelConfig(
    vocab_size=10, d_model=16, d_embed=16, n_head=2, d_head=8, d_inner=32, block_size="1x2_1",
    decoder_size="1", init_std=0.3,
)  # fmt: skip


def run(*flags, status=0):
    done = program_server.run([PROGRAM, "--device_id=-1", *flags])
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    vocabulary = directory / "words.txt"
    vocabulary.write_text("\n".join(WORDS) + "\n")
    torch.manual_seed(0)
    model = FunnelForPreTraining(CONFIG).eval()
    model.save_pretrained(directory / "electra", vocab_path=vocabulary)
    return model, directory / "electra"


def test_ids_give_what_the_model_computes(model, tmp_path):
    model, path = model
    ids = np.random.default_rng(0).integers(0, 10, (5, 9))
    mask = np.ones((5, 9), int)
    mask[2, 5:] = 0
    np.savez(tmp_path / "in.npz", input_ids=ids, attention_mask=mask, token_type_ids=ids % 3)
    run("--model", path, "--ids", tmp_path / "in.npz", "--output", tmp_path / "out.npz",
        "--batch_size=2")  # fmt: skip
    out = np.load(tmp_path / "out.npz")
    inputs = (torch.as_tensor(x) for x in (ids, mask, ids % 3))
    with torch.no_grad():
        ids_, mask_, segments_ = inputs
        expected = model.funnel(ids_, mask_, segments_, output_hidden_states=True)
        logits = model(ids_, mask_, segments_).logits
    names = ("embedding", "hidden_0", "hidden_1", "hidden_2")
    for name, state in zip(names, expected.hidden_states, strict=True):
        np.testing.assert_allclose(out[name], state.numpy(), atol=1e-5)
    np.testing.assert_allclose(out["decoder"], expected.last_hidden_state.numpy(), atol=1e-5)
    np.testing.assert_allclose(out["discriminator_logits"], logits.numpy(), atol=1e-5)
    assert set(out.files) == {*names, "decoder", "discriminator_logits"}
    assert all(out[name].dtype == np.float32 for name in out.files)


def test_text_with_pairs(model, tmp_path):
    _, path = model
    (tmp_path / "in.txt").write_text("a b.\nA cd\tb\n")
    run("--model", path, "--text", tmp_path / "in.txt", "--output", tmp_path / "out.npz")
    out = np.load(tmp_path / "out.npz")
    assert out["input_ids"][0].tolist()[:5] == [2, 5, 6, 9, 3]
    assert out["input_ids"][1].tolist() == [2, 5, 7, 8, 3, 6, 3]
    assert out["token_type_ids"][1].tolist() == [2, 0, 0, 0, 0, 1, 1]
    assert out["attention_mask"][0].tolist() == [1, 1, 1, 1, 1, 0, 0]


def test_summary_of_a_classifier_and_the_other_attention_form(tmp_path):
    torch.manual_seed(0)
    model = FunnelForSequenceClassification(CONFIG, 2).eval()
    model.save_pretrained(tmp_path / "m")
    np.savez(tmp_path / "in.npz", input_ids=np.arange(8)[None])
    results = []
    for form in ("rel_shift", "factorized"):
        output = tmp_path / f"{form}.npz"
        run("--model", tmp_path / "m", "--ids", tmp_path / "in.npz", "--output", output,
            "--attn_type", form, "--no-truncate_seq")  # fmt: skip
        results.append(np.load(output))
    assert results[0]["summary"].shape == (1, 16)
    assert results[0]["hidden_2"].shape == (1, 5, 16)
    assert "decoder" not in results[0].files
    for name in results[0].files:
        np.testing.assert_allclose(results[0][name], results[1][name], atol=1e-5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ids": np.zeros((1, 4), int)}, "no array input_ids"),
        ({"input_ids": np.zeros(4, int)}, r"[4]"),
        ({"input_ids": np.full((1, 4), 10)}, "numbers from 0 to 9"),
        ({"input_ids": np.zeros((1, 4))}, "should hold integers"),
        ({"input_ids": np.zeros((1, 4), int), "attention_mask": np.ones((1, 5), int)}, "shape"),
    ],
)
def test_bad_arrays_are_one_clear_line(model, tmp_path, arrays, message):
    np.savez(tmp_path / "in.npz", **arrays)
    flags = ("--model", model[1], "--ids", tmp_path / "in.npz", "--output", tmp_path / "out.npz")
    done = run(*flags, status=2)
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
    assert "in.npz" in done.stderr and message in done.stderr
    assert not (tmp_path / "out.npz").exists()


def test_not_an_archive(model, tmp_path):
    (tmp_path / "in.npz").write_bytes(b"hello")
    flags = ("--model", model[1], "--ids", tmp_path / "in.npz", "--output", tmp_path / "out.npz")
    assert "not a readable .npz" in run(*flags, status=2).stderr


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_pooled_outputs_are_those_of_all_positions(model, tmp_path, pooling):
    """Batches are padded to their own length, which changes no vector."""
    lines = ["a b.", "a", "a b c . a b c .\tb c", "", "c " * 30]
    (tmp_path / "in.txt").write_text("\n".join(lines) + "\n")
    flags = ("--model", model[1], "--text", tmp_path / "in.txt", "--batch_size=2")
    run(*flags, "--output", tmp_path / "all.npz", "--no-truncate_seq")
    done = run(*flags, "--output", tmp_path / "some.npz", "--layers=embedding,-1,decoder",
               f"--pooling={pooling}", "--no-truncate_seq")  # fmt: skip
    assert "5 sequences, embedding, hidden_2, decoder" in done.stdout
    every, found = np.load(tmp_path / "all.npz"), np.load(tmp_path / "some.npz")
    assert set(found.files) == {"embedding", "hidden_2", "decoder"}
    lengths = every["attention_mask"].sum(axis=1)
    reduce = {"cls": lambda x: x[0], "mean": lambda x: x.mean(0), "max": lambda x: x.max(0)}
    for row, length in enumerate(lengths):
        for name in found.files:
            # [CLS] stays alone; two tokens become one position of the last block.
            kept = length if name != "hidden_2" else 1 + -(-(length - 1) // 2)
            expected = reduce[pooling](every[name][row, :kept])
            np.testing.assert_allclose(found[name][row], expected, atol=1e-5)


def test_an_output_that_the_model_lacks_is_one_line(model, tmp_path):
    (tmp_path / "in.txt").write_text("a\n")
    flags = ("--model", model[1], "--text", tmp_path / "in.txt", "--output", tmp_path / "out.npz")
    error = run(*flags, "--layers=hidden_9", status=2).stderr
    assert error.startswith("error: --layers: 'hidden_9' is no output") and error.count("\n") == 1
