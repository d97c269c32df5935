"""Fine-tune, evaluate and predict on GLUE, text classification and your own data.

From a pretrained checkpoint; then the same on data of your own:

    python tensorflow/classifier.py --do_train=True --do_eval=True --task_name=rte \\
        --data_dir=GLUE/RTE --output_dir=PROC --model_dir=EXP --init_checkpoint=CKPT/model.ckpt \\
        --model_config=CKPT/net_config.json --tokenizer_path=CKPT/vocab.uncased.txt \\
        --train_batch_size=16 --learning_rate=1e-5 --train_steps=1550 --warmup_steps=155 \\
        --save_steps=155
    python tensorflow/classifier.py --task_name=csv --text_column=review --label_column=stars ...

A killed run is resumed by the same command. tensorflow/README.md lists the files in model_dir.
"""

import _paths  # noqa: F401

from funnel.utils.main import run_main
from funnel_tf.cli.start import run_program


def main() -> None:
    """Run the program with the command line of this process."""
    run_program("classifier", __doc__)


if __name__ == "__main__":
    run_main(main, preemptible=True)
