"""Cut a full pretraining checkpoint down to what fine-tuning needs; TensorFlow is not needed.

``python tensorflow/modify_ckpt.py --help`` shows examples and all flags.
"""

import _paths  # noqa: F401

from funnel_tf.cli.commands.modify_ckpt import command, main

__all__ = ["main"]

if __name__ == "__main__":
    command()
