"""The README.md of a saved model: sizes, how to load it, and differences from transformers."""

from __future__ import annotations

from pathlib import Path

from funnel.checkpoints import hf_names
from funnel.checkpoints.base import Checkpoint
from funnel.utils.text import join_names

_MARK = "library_name: funnel-transformer"
_SHOWN = 12  # names listed
_AUTO_CLASSES = {
    hf_names.PRETRAINING: "AutoModelForPreTraining",
    hf_names.MASKED_LM: "AutoModelForMaskedLM",
    hf_names.SEQUENCE: "AutoModelForSequenceClassification",
    hf_names.CHOICE: "AutoModelForMultipleChoice",
    hf_names.TOKEN: "AutoModelForTokenClassification",
    hf_names.ANSWERING: "AutoModelForQuestionAnswering",
}
_OUR_CLASSES = {hf_names.BASE: "FunnelEncoder"}


def is_model_card(path: Path) -> bool:
    """Return whether the file is one of these cards, which a new one may replace."""
    return _MARK in path.read_text(encoding="utf-8", errors="replace")


def model_card(checkpoint: Checkpoint, architecture: str, extra: list[str]) -> str:
    """Return the card of a directory in the Hugging Face layout, in Markdown.

    Args:
        checkpoint: the model.
        architecture: class of ``transformers`` that loads ``model.safetensors``.
        extra: canonical names in ``funnel_extra.safetensors``.
    """
    ours = checkpoint.metadata.get("architecture") or architecture
    parts = [
        f"---\n{_MARK}\ntags:\n- funnel\n---",
        f"# {_OUR_CLASSES.get(ours, ours)}",
        _description(checkpoint),
        f"```python\nfrom funnel_torch import {_OUR_CLASSES.get(ours, ours)}\n\n"
        f'model = {_OUR_CLASSES.get(ours, ours)}.from_pretrained("PATH")\n```',
        _transformers(checkpoint, architecture),
    ]
    if extra:
        parts.append(_extra_note(extra))
    return "\n\n".join(part for part in parts if part) + "\n"


def _description(checkpoint: Checkpoint) -> str:
    config = checkpoint.config
    number = sum(values.size for values in checkpoint.tensors.values())
    rows = {
        "blocks": config.block_size,
        "decoder layers": config.decoder_size,
        "hidden size": config.d_model,
        "heads": f"{config.n_head} of {config.d_head}",
        "feed-forward size": config.d_inner,
        "vocabulary": config.vocab_size,
        "attention": config.rel_attn_type,
        "weights": f"{number:,}",
    }
    labels = checkpoint.metadata.get("labels")
    if labels:
        rows["labels"] = ", ".join(labels)
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        "A Funnel-Transformer (Dai et al., 2020, https://arxiv.org/abs/2006.03236).\n\n"
        f"| | |\n|---|---|\n{table}"
    )


def _transformers(checkpoint: Checkpoint, architecture: str) -> str:
    if not checkpoint.config.is_hf_compatible:
        return (
            "`transformers` cannot compute this configuration; the model type in `config.json` "
            "makes it refuse to load it."
        )
    auto = _AUTO_CLASSES.get(architecture, "AutoModel")
    return (
        f"`transformers.{auto}.from_pretrained` loads the directory as well, as `{architecture}`. "
        "Its outputs differ on padded batches: its port hides a pooled position if any of its "
        "sources is padding, this model only if all of them are. Rows without padding agree."
    )


def _extra_note(extra: list[str]) -> str:
    names = join_names([f"`{name}`" for name in extra], _SHOWN)
    return (
        "`funnel_extra.safetensors` holds the weights that `transformers` has no place for: "
        f"{names}."
    )
