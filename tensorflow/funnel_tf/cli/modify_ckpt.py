"""``modify_ckpt.py``: cut a full pretraining checkpoint down to the variables of fine-tuning."""

from __future__ import annotations

from pathlib import Path

from funnel.checkpoints.base import read_side_files
from funnel.checkpoints.locate import require_checkpoint
from funnel.checkpoints.tf import drop_pretraining
from funnel.checkpoints.vocabulary import find_vocabulary, write_tokenizer
from funnel.cli.flags import check_given
from funnel.formats.tensor_bundle import TFCheckpoint, write_tf_checkpoint
from funnel_tf.cli.programs import ModifySettings


def run(settings: ModifySettings) -> None:
    """Copy the variables that are wanted, and print how many.

    Raises:
        FunnelError: a path is missing, or the source is no checkpoint.
    """
    check_given(src_ckpt=settings.src_ckpt, tgt_ckpt=settings.tgt_ckpt)
    require_checkpoint(settings.src_ckpt)
    source = TFCheckpoint(settings.src_ckpt)
    names = drop_pretraining(source) if settings.finetune_only else list(source)
    # Views of the mapped source: no more than one variable is in memory at a time.
    write_tf_checkpoint(settings.tgt_ckpt, {name: source[name] for name in names})
    folder, target = source.prefix.parent, Path(settings.tgt_ckpt).parent
    # A checkpoint is no use without the tokenizer that its ids are from.
    if find_vocabulary(target) is None:
        write_tokenizer(read_side_files(folder), target)
    print(f"{source.prefix} -> {settings.tgt_ckpt}: {len(names)} of {len(source)} variables")
