"""Fine-tune and evaluate a Funnel-Transformer on RACE: four options a question, one of them right.

    {program} --do_train --do_eval --data_dir=RACE --model_dir=EXP \\
        --init_ckpt=CKPT --tokenizer_path=CKPT/vocab.uncased.txt \\
        --train_bsz=16 --lr=2e-5 --train_steps=24000 --warmup_steps=2400
    torchrun --nproc_per_node=8 {script} ...              # --train_bsz counts per process

--data_dir holds {train,dev,test}/{middle,high}/*.txt. A killed run continues when the same command
is given again; --do_eval alone evaluates model_dir/best, --eval_model_dir/best or
--init_ckpt. The scores go to final_scores.json in model_dir.
"""

from __future__ import annotations

from collections.abc import Sequence

from funnel.cli.command import entry_point
from funnel.cli.flags import parse_settings
from funnel_torch.cli.settings.race import RaceSettings


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    settings = parse_settings(RaceSettings, __doc__, argv)
    from funnel_torch.cli.race import run  # imports PyTorch, which --help does not need

    run(settings)


command = entry_point(main, preemptible=True)
