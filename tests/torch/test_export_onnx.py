"""ONNX export of every head: any shape, the same numbers, no partial files."""

import json
import sys
import warnings

import numpy as np
import pytest

from funnel.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from funnel.config.model import ModelConfig
from funnel.utils.errors import ConfigError, ExportError
from funnel.utils.files import sha256_file

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from funnel_torch import (
    AnswerConfig,
    FunnelEncoder,
    FunnelForMaskedLM,
    FunnelForMultipleChoice,
    FunnelForPreTraining,
    FunnelForQuestionAnswering,
    FunnelForSequenceClassification,
    FunnelForTokenClassification,
    FunnelModel,
)
from funnel_torch.export import onnx as export
from funnel_torch.export.config import TASK_NAMES, ExportConfig
from funnel_torch.export.onnx import TASKS, export_onnx, find_task, load_model
from funnel_torch.models.weight_mapping import export_tensors

pytestmark = pytest.mark.slow

VOCAB = 40
SIMPLE_ANSWERS = AnswerConfig(
    conditional_end=False, use_answer_class=False, use_masked_loss=False, start_n_top=3,
    end_n_top=4,
)  # fmt: skip
MODELS = {
    "encoder": (FunnelEncoder, {}),
    "model": (FunnelModel, {}),
    "classification": (FunnelForSequenceClassification, {"num_labels": 3}),
    "regression": (FunnelForSequenceClassification, {"num_labels": 1, "regression": True}),
    "multiple_choice": (FunnelForMultipleChoice, {}),
    "token_classification": (FunnelForTokenClassification, {"num_labels": 5}),
    "mlm": (FunnelForMaskedLM, {}),
    "discriminator": (FunnelForPreTraining, {}),
    "question_answering": (FunnelForQuestionAnswering, {}),
    "simple_answers": (FunnelForQuestionAnswering, {"answers": SIMPLE_ANSWERS}),
}


def build(name="classification", config=None, **changes):
    model, arguments = MODELS[name]
    settings = {
        "vocab_size": VOCAB, "d_model": 16, "d_embed": 16, "n_head": 2, "d_head": 8,
        "d_inner": 32, "block_size": "1_1_1", "decoder_size": "1", "init_std": 0.3,
    }  # fmt: skip
    torch.manual_seed(0)
    return model(config or ModelConfig(**(settings | changes)), **arguments).eval()


def inputs_for(model, size, length):
    """A batch by input name, padded on the right, with two segments and masked answers."""
    generator = torch.Generator().manual_seed(size * length)
    shape = (size, 2, length) if isinstance(model, FunnelForMultipleChoice) else (size, length)
    ids = torch.randint(VOCAB, shape, generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, ..., length - length // 4 :] = 0
    segments = torch.zeros_like(ids)
    segments[..., length // 2 :] = 1
    segments[..., 0] = 2
    batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}
    if getattr(model, "answers", SIMPLE_ANSWERS).use_masked_loss:
        batch["p_mask"] = 1 - mask
        batch["p_mask"][:, 1 : length // 3] = 1
    return batch


def open_session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def compare(model, session, shapes):
    names = [output.name for output in session.get_outputs()]
    for size, length in shapes:
        batch = inputs_for(model, size, length)
        with torch.no_grad():
            output = model(**batch)
        found = session.run(names, {name: tensor.numpy() for name, tensor in batch.items()})
        for name, array in zip(names, found, strict=True):
            expected = getattr(output, name).numpy()
            assert array.shape == expected.shape and array.dtype == expected.dtype
            np.testing.assert_allclose(array, expected, atol=1e-4, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_every_head_on_other_shapes_than_the_traced_one(name, tmp_path):
    model = build(name)
    report = export_onnx(model, tmp_path / "m.onnx")
    assert report.difference < 1e-4
    assert report.size == (tmp_path / "m.onnx").stat().st_size
    session = open_session(tmp_path / "m.onnx")
    assert {item.type for item in session.get_inputs()} == {"tensor(int64)"}
    # The shortest with five starts that p_mask does not hide, then odd, even and long.
    compare(model, session, ((1, 9), (4, 11), (3, 31), (2, 50), (5, 128)))
    if "answer" not in name:
        compare(model, session, ((1, 5), (2, 6), (3, 7)))


@pytest.mark.parametrize(
    "changes",
    [
        {"rel_attn_type": "factorized", "d_embed": 12},
        {"rel_attn_type": "null", "pool_q_only": False},
        {"separate_cls": False, "pooling_type": "max"},
        {"truncate_seq": False, "pooling_size": 3, "block_size": "1_1x2"},
        {"block_size": "1_1_1_1", "decoder_size": "0", "ff_activation": "relu"},
        {"block_size": "2", "decoder_size": "0"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_every_kind_of_model(changes, tmp_path):
    model = build("model", **changes)
    report = export_onnx(model, tmp_path / "m.onnx", ExportConfig(batch=1, length=13))
    shortest = report.minimum_length
    compare(model, open_session(tmp_path / "m.onnx"), ((1, shortest), (3, shortest + 1), (2, 38)))


@pytest.mark.parametrize("opset", [14, 20])
def test_first_and_last_operator_set(opset, tmp_path):
    model = build("question_answering")
    export_onnx(model, tmp_path / "m.onnx", ExportConfig(opset=opset))
    assert onnx.load(tmp_path / "m.onnx").opset_import[0].version == opset
    compare(model, open_session(tmp_path / "m.onnx"), ((3, 21),))


def test_shorter_input_is_refused_not_miscomputed(tmp_path):
    for pooling_type in ("mean", "max"):
        model = build(pooling_type=pooling_type)
        assert export_onnx(model, tmp_path / "m.onnx").minimum_length == 5
        session = open_session(tmp_path / "m.onnx")
        for length in range(1, 5):
            batch = {k: v.numpy() for k, v in inputs_for(model, 1, length).items()}
            with pytest.raises(Exception, match="ONNXRuntimeError"):
                session.run(None, batch)


def test_weights_are_stored_once_and_the_graph_is_lean(tmp_path):
    """Tied embeddings and shared layers; no random operation, no write into a buffer."""
    model = build("mlm", block_size="1_1x2_1x2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_onnx(model, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    stored = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
    assert stored <= sum(parameter.numel() for parameter in model.parameters()) + 10
    operations = {node.op_type for node in graph.node}
    assert {"AveragePool", "Softmax", "LayerNormalization"} <= operations
    assert not {"Dropout", "ScatterND", "If", "Loop"} & operations


def test_metadata(tmp_path):
    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("[PAD]\n[CLS]\n")
    metadata = {"labels": ["no", "été"], "vocab_path": str(vocabulary)}
    model = build("classification")
    export_onnx(model, tmp_path / "m.onnx", metadata=metadata)
    facts = open_session(tmp_path / "m.onnx").get_modelmeta().custom_metadata_map
    assert ModelConfig.from_dict(json.loads(facts.pop("config"))) == model.config
    assert json.loads(facts.pop("labels")) == ["no", "été"]
    assert facts == {
        "task": "classification",
        "architecture": "FunnelForSequenceClassification",
        "minimum_length": "5",
        "vocabulary": "words.txt",
        "vocabulary_sha256": sha256_file(vocabulary),
    }


def test_absolute_positions_end(tmp_path):
    model = build("encoder", rel_attn_type="null", block_size="1", decoder_size="0")
    export_onnx(model, tmp_path / "m.onnx")
    facts = open_session(tmp_path / "m.onnx").get_modelmeta().custom_metadata_map
    assert (facts["minimum_length"], facts["maximum_length"]) == ("1", "512")
    with pytest.raises(ConfigError, match="length 513: should be at least 1 and at most 512"):
        export_onnx(model, tmp_path / "m.onnx", ExportConfig(length=513))


@pytest.mark.parametrize(
    ("name", "parameter"), [("classification", "classifier"), ("question_answering", "start")]
)
def test_a_wrong_file_is_not_kept(name, parameter, tmp_path, monkeypatch):
    """The model is changed after tracing, so that onnxruntime computes something else."""
    model, path = build(name), tmp_path / "m.onnx"
    path.write_bytes(b"previous")
    trace = export._trace

    def trace_and_change(graph, *arguments):
        trace(graph, *arguments)
        with torch.no_grad():
            for weight in getattr(graph.model, parameter).parameters():
                weight.add_(0.02 * torch.arange(weight.numel()).view_as(weight))

    monkeypatch.setattr(export, "_trace", trace_and_change)
    with pytest.raises(ExportError, match=r"m\.onnx: not written: .* differ by \d\.\de"):
        export_onnx(model, path)
    assert path.read_bytes() == b"previous"
    assert list(tmp_path.iterdir()) == [path]


def test_not_a_number_is_a_difference(tmp_path):
    model = build("regression")
    with torch.no_grad():
        model.classifier.linear_out.bias.fill_(float("nan"))
    with pytest.raises(ExportError, match="differ by inf"):
        export_onnx(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_scores_that_tie_are_no_difference(tmp_path):
    """The runtime may order equal starts either way."""
    model = build("question_answering")
    with torch.no_grad():
        model.start.weight.zero_()
    assert export_onnx(model, tmp_path / "m.onnx").difference < 1e-4


def test_a_file_that_the_runtime_cannot_read(tmp_path, monkeypatch):
    def trace(graph, inputs, shape, opset, path):
        x, y = (onnx.helper.make_tensor_value_info(n, 1, [1]) for n in "xy")
        node = onnx.helper.make_node("NoSuchOperation", ["x"], ["y"])
        graph = onnx.helper.make_graph([node], "g", [x], [y])
        opsets = [onnx.helper.make_opsetid("", 17)]
        onnx.save(onnx.helper.make_model(graph, ir_version=8, opset_imports=opsets), path)

    monkeypatch.setattr(export, "_trace", trace)
    with pytest.raises(ExportError, match=r"m\.onnx: not written: .*cannot load.*NoSuchOperation"):
        export_onnx(build(), tmp_path / "m.onnx")


def test_models_and_settings_that_cannot_be_exported(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    with pytest.raises(ConfigError, match="length 4: should be at least 5"):
        export_onnx(build(), path, ExportConfig(length=4))
    with pytest.raises(ConfigError, match="opset 13: should be 14 to 20"):
        ExportConfig(opset=13)
    with pytest.raises(ConfigError, match="batch 0"):
        ExportConfig(batch=0)
    with pytest.raises(ExportError, match=r"m\.onnx: only float32"):
        export_onnx(build().half(), path)
    with pytest.raises(ExportError, match="Linear: no model"):
        export_onnx(torch.nn.Linear(2, 2), path)
    monkeypatch.setattr(export, "_MAX_FILE_SIZE", 1000)
    with pytest.raises(ExportError, match="GiB of weights do not fit"):
        export_onnx(build(), path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExportError, match=r"pip install -r requirements/export\.txt"):
        export_onnx(build(), path)
    assert not list(tmp_path.iterdir())


def test_the_model_is_left_as_it_was(tmp_path):
    model = build().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_onnx(model, tmp_path / "m.onnx")
    assert model.training and model.funnel.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    batch = inputs_for(model.eval(), 2, 9)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, build()(**batch).logits)


def test_task_names_are_the_tasks():
    assert set(TASKS) == set(TASK_NAMES)


@pytest.mark.parametrize("kind", ["hf", "pt", "tf"])
@pytest.mark.parametrize("task", TASKS)
def test_task_is_found_in_every_checkpoint(task, kind, tmp_path):
    model = build(task)
    metadata = {"architecture": model.architecture} | model.head_metadata()
    checkpoint = Checkpoint(model.config, export_tensors(model), metadata)
    save_checkpoint(checkpoint, tmp_path / ("model.pt" if kind == "pt" else "model"), kind)
    loaded = load_checkpoint(tmp_path / ("model.pt" if kind == "pt" else "model"))
    assert find_task(loaded) == task
    again = load_model(loaded, task)
    assert export.get_task_name(again) == task
    batch = inputs_for(model, 2, 9)
    with torch.no_grad():
        first, second = model(**batch), again(**batch)
    name = next(iter(TASKS[task].outputs))
    torch.testing.assert_close(getattr(second, name), getattr(first, name))


def test_missing_weights_are_an_error_not_a_random_head(tmp_path):
    checkpoint = Checkpoint(build("encoder").config, export_tensors(build("encoder")))
    for task in set(TASKS) - {"encoder"}:
        with pytest.raises(ExportError, match=f"no weights for task {task}: model/"):
            load_model(checkpoint, task)
    with pytest.raises(ExportError, match="should be one of classification, regression"):
        load_model(checkpoint, "translation")
    three = Checkpoint(build().config, export_tensors(build("classification")))
    with pytest.raises(ExportError, match="a head of 3 labels is no regression"):
        load_model(three, "regression")
