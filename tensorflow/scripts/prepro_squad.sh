#!/usr/bin/env bash
# Write SQuAD's files as records: the training file in NUM_PROC shards in parallel, then the file
# to answer. Training does this too, one shard after another, if it was not done before.
#
#   SQUAD_DIR=data/squad NUM_PROC=8 bash tensorflow/scripts/prepro_squad.sh
#
# Everything below can be set through the environment; further arguments go to squad.py and come
# last, so they win. Give tpu_squad.sh the same settings.
set -euo pipefail

NUM_PROC=${NUM_PROC:-1}

# Vocabulary and length; SQuAD's files: see there.
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$here/common.sh"
# shellcheck source-path=SCRIPTDIR source=squad_files.sh
source "$here/squad_files.sh"

common=(
  --tokenizer_path="$VOCAB"
  --output_dir="$OUTPUT_DIR"
  --max_seq_length="$MAX_LENGTH"
  --train_version="$VERSION"
  --eval_version="$VERSION"
)
shards=()
for ((id = 0; id < NUM_PROC; id++)); do
  "$PYTHON" "$programs/squad.py" --prepro_split=train --train_file="$TRAIN_FILE" \
    --num_proc="$NUM_PROC" --proc_id="$id" "${common[@]}" "$@" &
  shards+=($!)
done
for shard in "${shards[@]}"; do
  wait "$shard"
done
exec "$PYTHON" "$programs/squad.py" --prepro_split=eval --predict_file="$PREDICT_FILE" \
  "${common[@]}" "$@"
