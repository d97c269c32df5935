"""Fine-tune, evaluate and predict on GLUE, text classification and your own data.

From a pretrained checkpoint; then the same on data of your own:

    {program} --do_train=True --do_eval=True --task_name=rte \\
        --data_dir=GLUE/RTE --output_dir=PROC --model_dir=EXP --init_checkpoint=CKPT/model.ckpt \\
        --model_config=CKPT/net_config.json --tokenizer_path=CKPT/vocab.uncased.txt \\
        --train_batch_size=16 --learning_rate=1e-5 --train_steps=1550 --warmup_steps=155 \\
        --save_steps=155
    {program} --task_name=csv --text_column=review --label_column=stars ...

A killed run is resumed by the same command. tensorflow/README.md lists the files in model_dir.
"""

from __future__ import annotations

from collections.abc import Sequence

from funnel.cli.command import entry_point
from funnel_tf.cli.start import run_program


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    run_program("classifier", __doc__, argv)


command = entry_point(main, preemptible=True)
