r"""What the TPU compiler says of a training step, before a TPU is rented: no TPU is needed.

Compiles the whole step of a program, forward, backward and update, for one core, and prints whether
it fits in memory, FLOPs, bytes accessed, the compiler's estimate of the time, and the sequences per
second and days that follow. Nothing is run, and the exchange of gradients between cores is not
counted. Needs `pip install -r requirements/tpu-compile.txt` (Linux x86-64); large models take
minutes.

    {program} --topology=v3-8 --model_config=B4-4-4H768 --program=electra \
        --batch_per_core=16 --seq_len=512 --train_steps=1000000 --output=b4.json
    {program} --topology=v4-8 --model_config=net_config.json \
        --program=classifier --seq_len=128 --find_batch
"""

from __future__ import annotations

from collections.abc import Sequence

from funnel.cli.command import entry_point
from funnel.cli.flags import parse_settings
from funnel_tf.cli.start import import_installed, prepare_tpu_compiler, silence_tensorflow
from funnel_tf.cli.tpu.settings import TpuCompileSettings


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    settings = parse_settings(TpuCompileSettings, __doc__, argv, absl_booleans=True)
    prepare_tpu_compiler()
    silence_tensorflow()
    for package in ("jax", "libtpu"):
        import_installed(package)
    import_installed("funnel_tf.cli.tpu.program").run(settings)


command = entry_point(main)
