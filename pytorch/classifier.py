"""Fine-tune, evaluate and predict with a Funnel-Transformer on GLUE, text classification, own data.

One device, from a pretrained checkpoint; then eight GPUs with the same flags:

    python pytorch/classifier.py --dataset=CoLA --data_dir=GLUE/CoLA --model_dir=EXP \\
        --init_ckpt=CKPT --tokenizer_path=CKPT/vocab.uncased.txt --lr=1e-5 --epochs=10
    torchrun --nproc_per_node=8 pytorch/classifier.py ...

A killed run continues when the same command is given again; pytorch/README.md lists the files in
model_dir.
"""

from __future__ import annotations

import _paths  # noqa: F401

from funnel.cli.flags import parse_settings
from funnel.utils.main import run_main
from funnel_torch.cli.classifier_settings import ClassifierSettings


def main() -> None:
    settings = parse_settings(ClassifierSettings, __doc__)
    from funnel_torch.cli.classifier import run  # imports PyTorch, which --help does not need

    run(settings)


if __name__ == "__main__":
    run_main(main, preemptible=True)
