#!/usr/bin/env bash
# Fine-tune on one classification task. The other finetune scripts set what their tasks need and
# call this one; it runs any task of classifier.py.
#
#   TASK=csv DATA_DIR=my_data INIT_CKPT=ckpts/B6-6-6H768-ELEC-PT bash pytorch/scripts/finetune.sh
#
# Everything below can be set through the environment; further arguments go to the program and come
# last, so they win.
set -euo pipefail

TASK=${TASK:-CoLA}
DATA_DIR=${DATA_DIR:-data/$TASK}
INIT_CKPT=${INIT_CKPT:-ckpts/B4-4-4H768-ELEC-PT}   # any checkpoint: ours, released, TensorFlow
TOKENIZER=${TOKENIZER:-$INIT_CKPT/vocab.uncased.txt}
MODEL_DIR=${MODEL_DIR:-exp/$TASK}
CACHE_DIR=${CACHE_DIR:-proc/$TASK}
MAX_LENGTH=${MAX_LENGTH:-128}
BATCH=${BATCH:-16}
EPOCHS=${EPOCHS:-10}
LR=${LR:-1e-5}
PROGRAM=${PROGRAM:-classifier.py}                  # or multigpu_classifier.py
PYTHON=${PYTHON:-python}

exec "$PYTHON" "$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/$PROGRAM" \
  --dataset="$TASK" \
  --data_dir="$DATA_DIR" \
  --output_dir="$CACHE_DIR" \
  --model_dir="$MODEL_DIR" \
  --init_ckpt="$INIT_CKPT" \
  --tokenizer_path="$TOKENIZER" \
  --max_length="$MAX_LENGTH" \
  --train_bsz="$BATCH" \
  --epochs="$EPOCHS" \
  --lr="$LR" \
  "$@"
