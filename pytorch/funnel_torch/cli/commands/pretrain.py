r"""Pretrain a Funnel-Transformer on records: masked language modelling or ELECTRA.

    python pytorch/create_pretrain_data.py --input_glob='corpus/*.txt' --save_dir=records \
        --tokenizer_path=vocab.txt --seq_len=512
    {program} --config=configs/B4-4-4H768.json --record_dir=records \
        --tokenizer_path=vocab.txt --loss_type=electra --seq_len=512 --train_bsz=32 \
        --train_steps=100000 --warmup_steps=10000 --model_dir=runs/electra --bf16

The same command continues a killed run. Continue pretraining from released weights (a FULL release
has generator, Adam moments and step): --init_ckpt=B4-4-4H768-ELEC-FULL-TF. Several GPUs, also on
several nodes: torchrun --nproc_per_node=8 {script} ..., with --fsdp if the model does
not fit on one. Every checkpoint (model_dir/last, model_dir/best) loads in all other programs:
--init_ckpt=runs/electra/last.
"""

from __future__ import annotations

from collections.abc import Sequence

from funnel.cli.command import entry_point
from funnel.cli.flags import parse_settings
from funnel_torch.cli.settings.pretrain import PretrainSettings


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    settings = parse_settings(PretrainSettings, __doc__, argv)
    from funnel_torch.cli.pretrain import run  # imports PyTorch, which --help does not need

    run(settings)


command = entry_point(main, preemptible=True)
