r"""Cut a full pretraining checkpoint down to what fine-tuning needs; TensorFlow is not needed.

Drops the step counter, the Adam slots and the ELECTRA generator: a file of a quarter of the size.

    python tensorflow/modify_ckpt.py --src_ckpt=FULL/model.ckpt --tgt_ckpt=CORE/model.ckpt
    python tensorflow/modify_ckpt.py --src_ckpt=EXP/latest --tgt_ckpt=COPY/model.ckpt \
        --finetune_only=False
"""

import _paths  # noqa: F401

from funnel.cli.flags import parse_settings
from funnel.utils.main import run_main
from funnel_tf.cli.programs import ModifySettings


def main() -> None:
    """Run the program with the command line of this process."""
    settings = parse_settings(ModifySettings, __doc__, absl_booleans=True)
    from funnel_tf.cli.modify_ckpt import run  # imports NumPy, which --help does not need

    run(settings)


if __name__ == "__main__":
    run_main(main)
