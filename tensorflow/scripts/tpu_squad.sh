#!/usr/bin/env bash
# Fine-tune on SQuAD and answer the development questions: on a TPU, or with USE_TPU=False here.
#
#   SQUAD_DIR=data/squad CKPT_DIR=ckpts/B6-6-6H768-ELEC-TF bash tensorflow/scripts/tpu_squad.sh
#
# Everything below can be set through the environment; further arguments go to squad.py and come
# last, so they win. Not tested on a TPU: see docs/tpu.md.
set -euo pipefail

VERSION=${VERSION:-v2}                             # v1 or v2
MODEL_DIR=${MODEL_DIR:-exp/squad-$VERSION}
USE_TPU=${USE_TPU:-True}
CORES=${CORES:-8}                                  # of one host; without TPU: GPUs at most
BATCH=${BATCH:-48}
STEPS=${STEPS:-8000}
WARMUP=${WARMUP:-1000}
LR=${LR:-3e-5}
LAYER_DECAY=${LAYER_DECAY:-0.75}
SAVE_STEPS=${SAVE_STEPS:-1000}

# Checkpoint, vocabulary, length, TPU; SQuAD's files: see there.
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$here/common.sh"
# shellcheck source-path=SCRIPTDIR source=squad_files.sh
source "$here/squad_files.sh"

finetune squad.py \
  --do_predict=True \
  --train_file="$TRAIN_FILE" \
  --predict_file="$PREDICT_FILE" \
  --train_version="$VERSION" \
  --eval_version="$VERSION" \
  --lr_layer_decay_rate="$LAYER_DECAY" \
  "$@"
