#!/usr/bin/env bash
# Turn SQuAD's files into records: the training file in NUM_PROC shards side by side, then the file
# to answer. Training does this too, one shard after another, where it was not done before.
#
#   SQUAD_DIR=data/squad NUM_PROC=8 bash tensorflow/scripts/prepro_squad.sh
#
# Everything below can be set through the environment; further arguments go to squad.py and come
# last, so they win. Give tpu_squad.sh the same settings.
set -euo pipefail

SQUAD_DIR=${SQUAD_DIR:-data/squad}
VERSION=${VERSION:-v2}                             # v1 or v2
CKPT_DIR=${CKPT_DIR:-ckpts/B4-4-4H768-ELEC-TF}
VOCAB=${VOCAB:-$CKPT_DIR/vocab.uncased.txt}
OUTPUT_DIR=${OUTPUT_DIR:-proc/squad}
MAX_LENGTH=${MAX_LENGTH:-512}
NUM_PROC=${NUM_PROC:-1}
PYTHON=${PYTHON:-python}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
release=v2.0
[[ $VERSION == v1 ]] && release=v1.1
TRAIN_FILE=${TRAIN_FILE:-$SQUAD_DIR/train-$release.json}
PREDICT_FILE=${PREDICT_FILE:-$SQUAD_DIR/dev-$release.json}

common=(
  --tokenizer_path="$VOCAB"
  --output_dir="$OUTPUT_DIR"
  --max_seq_length="$MAX_LENGTH"
  --train_version="$VERSION"
  --eval_version="$VERSION"
)
shards=()
for ((id = 0; id < NUM_PROC; id++)); do
  "$PYTHON" "$here/squad.py" --prepro_split=train --train_file="$TRAIN_FILE" \
    --num_proc="$NUM_PROC" --proc_id="$id" "${common[@]}" "$@" &
  shards+=($!)
done
for shard in "${shards[@]}"; do
  wait "$shard"
done
exec "$PYTHON" "$here/squad.py" --prepro_split=eval --predict_file="$PREDICT_FILE" \
  "${common[@]}" "$@"
