"""Fine-tune, evaluate and predict with a Funnel-Transformer on GLUE, text classification, own data.

One device, from a pretrained checkpoint; then eight GPUs with the same flags:

    {program} --dataset=CoLA --data_dir=GLUE/CoLA --model_dir=EXP \\
        --init_ckpt=CKPT --tokenizer_path=CKPT/vocab.uncased.txt --lr=1e-5 --epochs=10
    torchrun --nproc_per_node=8 {script} ...

A killed run continues when the same command is given again; docs/fine_tuning.md lists the files
in model_dir.
"""

from __future__ import annotations

from collections.abc import Sequence

from funnel.cli.command import entry_point
from funnel.cli.flags import parse_settings
from funnel_torch.cli.settings.classifier import ClassifierSettings


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    settings = parse_settings(ClassifierSettings, __doc__, argv)
    from funnel_torch.cli.classifier import run  # imports PyTorch, which --help does not need

    run(settings)


command = entry_point(main, preemptible=True)
