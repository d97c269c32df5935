#!/usr/bin/env bash
# Fine-tune on RACE and evaluate every checkpoint, without TPU.
#
#   RACE_DIR=data/RACE CKPT_DIR=ckpts/B6-6-6H768-ELEC-TF bash tensorflow/scripts/race.sh
#
# Everything below can be set through the environment; further arguments go to race.py and come
# last, so they win.
set -euo pipefail

RACE_DIR=${RACE_DIR:-data/RACE}                    # holds train, dev and test
OUTPUT_DIR=${OUTPUT_DIR:-proc/race}                # records
MODEL_DIR=${MODEL_DIR:-exp/race}
CORES=${DEVICES:-${CORES:-1}}                      # GPUs at most; DEVICES as in pretrain.sh
QA_LENGTH=${QA_LENGTH:-128}
BATCH=${BATCH:-16}                                 # questions, of four sequences each
EVAL_BATCH=${EVAL_BATCH:-32}
STEPS=${STEPS:-24000}
WARMUP=${WARMUP:-2400}
LR=${LR:-2e-5}
SAVE_STEPS=${SAVE_STEPS:-2400}

# Checkpoint, vocabulary, length, TPU: see there.
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

finetune race.py \
  --do_eval=True \
  --data_dir="$RACE_DIR" \
  --max_qa_length="$QA_LENGTH" \
  --eval_batch_size="$EVAL_BATCH" \
  "$@"
