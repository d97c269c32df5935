#!/usr/bin/env bash
# Pretrain on a TPU: batch 256 and 1M steps as at the paper's base scale.
#
#   TPU=local CORES=8 RECORD_DIR=records MODEL_DIR=exp bash tensorflow/scripts/tpu_pretrain.sh
#
# Everything below can be set through the environment; further arguments go to pretrain.py and come
# last, so they win. Not run by the authors of this file on a TPU: see tensorflow/README.md.
set -euo pipefail

LOSS=${LOSS:-electra}                              # mlm or electra
TPU=${TPU:-local}                                  # name; local: the TPU of this machine
ZONE=${ZONE:-}
PROJECT=${PROJECT:-}
HOSTS=${HOSTS:-1}
CORES=${CORES:-8}                                  # of one host
RECORD_DIR=${RECORD_DIR:-proc_data/example}        # comma list of folders with records
VOCAB=${VOCAB:-vocab.uncased.txt}
MODEL_DIR=${MODEL_DIR:-exp/tpu-pretrain-$LOSS}
SEQ_LEN=${SEQ_LEN:-512}                            # as in the records
NUM_PREDICT=${NUM_PREDICT:-85}
NUM_PASSES=${NUM_PASSES:-1}
BATCH=${BATCH:-256}                                # over all cores
STEPS=${STEPS:-1000000}
WARMUP=${WARMUP:-10000}
LR=${LR:-1e-4}
SAVE_STEPS=${SAVE_STEPS:-10000}
ITERATIONS=${ITERATIONS:-1000}                     # steps between two looks of the host
PYTHON=${PYTHON:-python}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
address=(--tpu="$TPU")
[[ -n $ZONE ]] && address+=(--tpu_zone="$ZONE")
[[ -n $PROJECT ]] && address+=(--gcp_project="$PROJECT")

exec "$PYTHON" "$here/pretrain.py" \
  --use_tpu=True \
  --use_bfloat16=True \
  "${address[@]}" \
  --num_hosts="$HOSTS" \
  --num_core_per_host="$CORES" \
  --iterations="$ITERATIONS" \
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
  --block_size="${BLOCK_SIZE:-6_6_6}" --decoder_size=2 --d_model=768 --d_embed=768 --n_head=12 \
  --d_head=64 --d_inner=3072 \
  "$@"
