"""``export_onnx.py`` end to end, and every snippet of docs/inference.md."""

import csv
import gzip
import json
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

import program_server
import readme_commands
import repo_layout
from classifier_runs import invoke, load_program
from funnel.config.model import ModelConfig
from half_installation import run_without

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from funnel_torch import FunnelEncoder, FunnelForSequenceClassification

pytestmark = pytest.mark.slow

PROGRAM = repo_layout.ROOT / "pytorch" / "export_onnx.py"
DOCUMENT = repo_layout.ROOT / "docs" / "inference.md"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##d", "."]
CONFIG = ModelConfig(
    vocab_size=10, d_model=16, d_embed=16, n_head=2, d_head=8, d_inner=32, block_size="1_1_1",
    decoder_size="0", init_std=0.3,
)  # fmt: skip


def run(command, cwd, status=0):
    roots = [str(repo_layout.ROOT / "common"), str(repo_layout.ROOT / "pytorch")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(roots), "OMP_NUM_THREADS": "1"}
    done = program_server.run(command, cwd=cwd, env=environment)
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture
def folder(tmp_path):
    """A directory with what the document expects: runs/mine/best and texts.txt."""
    words = tmp_path / "vocab.txt"
    words.write_text("".join(f"{word}\n" for word in WORDS))
    torch.manual_seed(0)
    model = FunnelForSequenceClassification(CONFIG, 2).eval()
    model.save_pretrained(tmp_path / "runs" / "mine" / "best", vocab_path=words, labels=["x", "y"])
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(["a", "b", "c", "cd", "."], n)) for n in range(70)]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    return tmp_path


def test_export(folder):
    done = run(
        [PROGRAM, "--model=runs/mine/best", "--output=out/m.onnx", "--length=21", "--batch=1"],
        folder,
    )
    told = r"out/m\.onnx: classification, opset 17, 0\.\d MB, length 5 or more; .* at most \de-0\d"
    assert re.fullmatch(told.replace(r"\de", r"\d\.\de"), done.stdout.strip())
    assert done.stderr == ""
    session = onnxruntime.InferenceSession(folder / "out" / "m.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["labels"]) == ["x", "y"]
    run([PROGRAM, "--model=runs/mine/best", "--task=encoder", "--output=encoder.onnx"], folder)
    session = onnxruntime.InferenceSession(folder / "encoder.onnx")
    assert session.get_modelmeta().custom_metadata_map["task"] == "encoder"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task=mlm"], "runs/mine/best: has no weights for task mlm: model/lm_loss/bias"),
        (["--opset=9"], "opset 9: should be 14 to 20"),
        (["--length=3"], "length 3: should be at least 5 for this model"),
        (["--model=elsewhere"], "elsewhere: no checkpoint there"),
    ],
)
def test_mistakes_are_one_line(folder, flags, message):
    done = run([PROGRAM, "--model=runs/mine/best", "--output=m.onnx", *flags], folder, status=2)
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1
    assert not (folder / "m.onnx").exists()


def test_without_the_packages(folder):
    command = [str(PROGRAM), f"--model={folder / 'runs/mine/best'}", "--output=m.onnx"]
    done = run_without(["onnx", "onnxruntime"], command)
    assert done.returncode == 2
    assert "pip install -r requirements/export.txt" in done.stderr


def predict_as_documented(lines, folder):
    """Run the documented commands of predict.py, which must agree; return rows with logits."""
    program = load_program("predict")
    for line in lines:
        words = shlex.split(line)
        if words[:2] == ["python", "pytorch/predict.py"] and "--help" not in words:
            assert invoke(program, words[2:]) == 0
    rows = [json.loads(line) for line in (folder / "rows.jsonl").open()]
    with (folder / "predictions.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["label"] for row in rows] == [row["label"] for row in table]
    (pipe,) = [line for line in lines if line.startswith("zcat")]
    (folder / "texts.txt.gz").write_bytes(gzip.compress((folder / "texts.txt").read_bytes()))
    pipe = " ".join(shlex.split(pipe)).replace(
        "python pytorch", f"{sys.executable} {PROGRAM.parent}"
    )
    done = subprocess.run(pipe, shell=True, capture_output=True, text=True, check=True)
    piped = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["label"] for row in piped] == [row["label"] for row in rows]
    return rows


def test_every_snippet_of_the_document_runs(folder, monkeypatch, capsys):
    """Predictor, predict.py, 8 bits and ONNX: the logits of every text computed alone."""
    with_class, in_8_bits, with_onnx = readme_commands.blocks(DOCUMENT, "python")
    lines = readme_commands.shell_lines(DOCUMENT)
    (export,) = [line.split() for line in lines if "export_onnx.py" in line]
    monkeypatch.chdir(folder)
    exec(compile(with_class, "snippet", "exec"), {})
    answers = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert len(answers) == 2 and all(a in "xy" and 0.5 <= float(p) <= 1 for a, p in answers)
    rows = predict_as_documented(lines, folder)
    logits = np.array([list(row["logits"].values()) for row in rows])
    names: dict = {}
    exec(compile(in_8_bits, "snippet", "exec"), names)
    batch = torch.tensor([[2, 5, 6, 3]]), None, torch.tensor([[2, 0, 0, 0]])
    model = FunnelForSequenceClassification.from_pretrained(folder / "runs" / "mine" / "best")
    with torch.inference_mode():
        rounded, exact = (m(*batch).logits for m in (names["model"], model))
    assert 0 < (rounded - exact).norm() < 0.1 * exact.norm()
    run([repo_layout.ROOT / export[1], *export[2:]], folder)
    done = run_without(
        ["torch", "tensorflow"], ["-c", f"import os\nos.chdir({str(folder)!r})\n{with_onnx}"],
        [repo_layout.ROOT / "common"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    texts = (folder / "texts.txt").read_text().splitlines()
    assert len(texts) == len(logits) == 70
    for text, row in zip(texts, logits, strict=True):
        words = text.replace("cd", "c ##d").split()
        ids = [WORDS.index(word) for word in ("[CLS]", *words, "[SEP]")]
        batch = torch.zeros(3, 1, 128, dtype=torch.long)
        batch[0, 0, : len(ids)] = torch.tensor(ids)
        batch[1, 0, : len(ids)] = 1
        batch[2, 0, 0] = 2
        with torch.no_grad():
            np.testing.assert_allclose(model(*batch).logits[0].numpy(), row, atol=1e-4)
    answers = [("x", "y")[best] for best in logits.argmax(1)]
    assert set(answers) == {"x", "y"}
    assert done.stdout == "".join(f"{a}\t{t}\n" for a, t in zip(answers, texts, strict=True))


def test_the_document_lists_every_task():
    from funnel_torch.export.config import TASK_NAMES
    from funnel_torch.export.onnx import TASKS

    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert (
        [name for name, _, _ in rows]
        == list(TASK_NAMES)
        == [
            *("encoder", "model", "classification", "regression", "multiple_choice"),
            *("token_classification", "mlm", "discriminator", "question_answering"),
        ]
    )
    for name, _, outputs in rows:
        assert re.findall(r"`(\w+)`", outputs) == list(TASKS[name].outputs)


def test_an_encoder_says_what_it_is(tmp_path):
    FunnelEncoder(CONFIG).save_pretrained(tmp_path / "base")
    done = run([PROGRAM, "--model=base", "--output=base.onnx"], tmp_path)
    assert done.stdout.startswith("base.onnx: encoder, ")
