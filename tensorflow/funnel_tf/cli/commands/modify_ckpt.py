r"""Cut a full pretraining checkpoint down to what fine-tuning needs; TensorFlow is not needed.

Drops the step counter, the Adam slots and the ELECTRA generator: a file of a quarter of the size.

    {program} --src_ckpt=FULL/model.ckpt --tgt_ckpt=CORE/model.ckpt
    {program} --src_ckpt=EXP/latest --tgt_ckpt=COPY/model.ckpt \
        --finetune_only=False
"""

from __future__ import annotations

from collections.abc import Sequence

from funnel.cli.command import entry_point
from funnel.cli.flags import parse_settings
from funnel_tf.cli.programs import ModifySettings


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    settings = parse_settings(ModifySettings, __doc__, argv, absl_booleans=True)
    from funnel_tf.cli.modify_ckpt import run  # imports NumPy, which --help does not need

    run(settings)


command = entry_point(main)
