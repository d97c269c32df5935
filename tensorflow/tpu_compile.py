"""What the TPU compiler says of a training step, before a TPU is rented: no TPU is needed.

``python tensorflow/tpu_compile.py --help`` shows examples and all flags.
"""

import _paths  # noqa: F401

from funnel_tf.cli.commands.tpu_compile import command, main

__all__ = ["main"]

if __name__ == "__main__":
    command()
