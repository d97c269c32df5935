#!/usr/bin/env bash
# Make demo/pretrained: 50 minutes on one CPU core. PYTHON is the interpreter, WORK the folder for
# corpus, records and checkpoints, OUTPUT that of the result.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
WORK=${WORK:-demo_output/pretraining}
OUTPUT=${OUTPUT:-demo/pretrained}
STEPS=${STEPS:-16000}

"$PYTHON" data-scripts/make_demo_data.py --output_dir="$WORK/data"
"$PYTHON" pytorch/create_pretrain_data.py --input_glob="$WORK/data/corpus.txt" \
    --save_dir="$WORK/records" --tokenizer_path="$WORK/data/vocab.txt" --seq_len=128
"$PYTHON" pytorch/pretrain.py --device_id=-1 --config=configs/demo.json \
    --overwrite_keys=dropout,dropatt --dropout=0 --dropatt=0 --record_dir="$WORK/records" \
    --tokenizer_path="$WORK/data/vocab.txt" --seq_len=128 --loss_type=mlm --num_predict=48 \
    --train_bsz=8 --lr=2e-3 --warmup_steps=500 --train_steps="$STEPS" --save_steps=2000 --bf16 \
    --seed=1 --model_dir="$WORK/mlm"
"$PYTHON" demo/shrink.py "$WORK/mlm/last" "$WORK/data/manifest.json" "$OUTPUT"
