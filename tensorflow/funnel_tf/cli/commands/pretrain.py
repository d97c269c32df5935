r"""Pretrain a Funnel-Transformer with masked language modelling or ELECTRA, and evaluate it.

    {program} --use_tpu=False --num_core_per_host=1 --loss_type=electra \
        --record_dir=DIR --model_dir=EXP --tokenizer_path=vocab.txt --train_batch_size=256 \
        --learning_rate=1e-4 --seq_len=512 --num_predict=85 --train_steps=1000000 \
        --warmup_steps=10000 --weight_decay=0.01 --block_size=6_6_6 --d_model=768 --d_embed=768 \
        --n_head=12 --d_inner=3072
    {program} --do_train=False --do_eval=True --eval_split=dev ...

Records come from create_pretrain_data.py. Evaluation scores every checkpoint from step
--start_eval_steps on, or --eval_ckpt_path alone. A killed run is resumed by the same command.
"""

from __future__ import annotations

from collections.abc import Sequence

from funnel.cli.command import entry_point
from funnel_tf.cli.start import run_program


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    run_program("pretrain", __doc__, argv)


command = entry_point(main, preemptible=True)
