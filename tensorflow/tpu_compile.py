r"""What the TPU compiler says of a training step, before a TPU is rented: no TPU is needed.

Compiles the whole step of a program, forward, backward and update, for one core, and prints whether
it fits in memory, FLOPs, bytes accessed, the compiler's estimate of the time, and the sequences per
second and days that follow. Nothing is run, and the exchange of gradients between cores is not
counted. Needs `pip install -r requirements/tpu-compile.txt` (Linux x86-64); large models take
minutes.

    python tensorflow/tpu_compile.py --topology=v3-8 --model_config=B4-4-4H768 --program=electra \
        --batch_per_core=16 --seq_len=512 --train_steps=1000000 --output=b4.json
    python tensorflow/tpu_compile.py --topology=v4-8 --model_config=net_config.json \
        --program=classifier --seq_len=128 --find_batch
"""

import os

import _paths  # noqa: F401

from funnel.cli.flags import parse_settings
from funnel.utils.main import run_main
from funnel_tf.cli.start import import_installed, silence_tensorflow
from funnel_tf.cli.tpu_settings import COMPILER_ENVIRONMENT, TpuCompileSettings


def main() -> None:
    """Run the program with the command line of this process."""
    settings = parse_settings(TpuCompileSettings, __doc__, absl_booleans=True)
    os.environ |= COMPILER_ENVIRONMENT
    silence_tensorflow()
    for package in ("jax", "libtpu"):
        import_installed(package)
    import_installed("funnel_tf.cli.tpu_compile").run(settings)


if __name__ == "__main__":
    run_main(main)
