#!/usr/bin/env bash
# Pretrain on one machine without TPU (CPU, or the GPUs TensorFlow sees).
#
#   RECORD_DIR=records VOCAB=vocab.txt LOSS=electra bash tensorflow/scripts/pretrain.sh
#
# Everything below can be set through the environment; further arguments go to pretrain.py and come
# last, so they win. Records: see tensorflow/create_pretrain_data.py.
set -euo pipefail

LOSS=${LOSS:-mlm}                                  # mlm or electra
RECORD_DIR=${RECORD_DIR:-proc_data/example}        # comma list of folders with records
VOCAB=${VOCAB:-vocab.uncased.txt}
MODEL_DIR=${MODEL_DIR:-exp/pretrain-$LOSS}
SEQ_LEN=${SEQ_LEN:-512}                            # as in the records
NUM_PREDICT=${NUM_PREDICT:-85}
NUM_PASSES=${NUM_PASSES:-1}
DEVICES=${DEVICES:-${CORES:-1}}                    # GPUs at most; CORES as in the other scripts
BATCH=${BATCH:-256}
STEPS=${STEPS:-1000000}
WARMUP=${WARMUP:-10000}
LR=${LR:-1e-4}
SAVE_STEPS=${SAVE_STEPS:-10000}
MODEL_CONFIG=${MODEL_CONFIG:-}                     # net_config.json; empty: B4-4-4H768
PYTHON=${PYTHON:-python}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
model=(--block_size=4_4_4 --decoder_size=2 --d_model=768 --d_embed=768 --n_head=12 --d_head=64
       --d_inner=3072)
if [[ -n $MODEL_CONFIG ]]; then
  model=(--model_config="$MODEL_CONFIG")
fi

exec "$PYTHON" "$here/pretrain.py" \
  --use_tpu=False \
  --num_core_per_host="$DEVICES" \
  --loss_type="$LOSS" \
  --record_dir="$RECORD_DIR" \
  --model_dir="$MODEL_DIR" \
  --tokenizer_path="$VOCAB" \
  --seq_len="$SEQ_LEN" \
  --num_predict="$NUM_PREDICT" \
  --num_passes="$NUM_PASSES" \
  --train_batch_size="$BATCH" \
  --train_steps="$STEPS" \
  --warmup_steps="$WARMUP" \
  --learning_rate="$LR" \
  --weight_decay=0.01 \
  --save_steps="$SAVE_STEPS" \
  "${model[@]}" \
  "$@"
