#!/usr/bin/env bash
# Fine-tune on one text-classification set: length 512, batch 32.
#
#   TASK=imdb INIT_CKPT=ckpts/B6-6-6H768-ELEC-PT bash pytorch/scripts/finetune_textcls.sh --bf16
#
# Everything below can be set through the environment; further arguments go to classifier.py and
# come last, so they win. On one small GPU: BATCH=8 and --grad_accum=4.
set -euo pipefail

TASK=${TASK:-imdb}                                 # imdb ag dbpedia yelp2 yelp5 amazon2 amazon5
DATA_DIR=${DATA_DIR:-data/$TASK}
INIT_CKPT=${INIT_CKPT:-ckpts/B4-4-4H768-ELEC-PT}   # any checkpoint: ours, released, TensorFlow
TOKENIZER=${TOKENIZER:-$INIT_CKPT/vocab.uncased.txt}
MODEL_DIR=${MODEL_DIR:-exp/$TASK}
CACHE_DIR=${CACHE_DIR:-proc/$TASK}
MAX_LENGTH=${MAX_LENGTH:-512}
BATCH=${BATCH:-32}
LR=${LR:-1e-5}                                     # 1e-5, 2e-5, 3e-5
PYTHON=${PYTHON:-python}

# The larger the set, the fewer passes it needs.
case "$TASK" in
  imdb) epochs=5 ;;
  ag) epochs=3 ;;
  *) epochs=2 ;;
esac
EPOCHS=${EPOCHS:-$epochs}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

exec "$PYTHON" "$here/classifier.py" \
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
