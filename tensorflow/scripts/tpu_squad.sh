#!/usr/bin/env bash
# Fine-tune on SQuAD and answer the development questions: on a TPU, or with USE_TPU=False here.
#
#   SQUAD_DIR=data/squad CKPT_DIR=ckpts/B6-6-6H768-ELEC-TF bash tensorflow/scripts/tpu_squad.sh
#
# Everything below can be set through the environment; further arguments go to squad.py and come
# last, so they win. Not run by the authors of this file on a TPU: see tensorflow/README.md.
set -euo pipefail

SQUAD_DIR=${SQUAD_DIR:-data/squad}
VERSION=${VERSION:-v2}                             # v1 or v2
CKPT_DIR=${CKPT_DIR:-ckpts/B4-4-4H768-ELEC-TF}
INIT_CKPT=${INIT_CKPT:-$CKPT_DIR/model.ckpt}
MODEL_CONFIG=${MODEL_CONFIG:-$CKPT_DIR/net_config.json}
VOCAB=${VOCAB:-$CKPT_DIR/vocab.uncased.txt}
OUTPUT_DIR=${OUTPUT_DIR:-proc/squad}               # records; see prepro_squad.sh
MODEL_DIR=${MODEL_DIR:-exp/squad-$VERSION}
USE_TPU=${USE_TPU:-True}
TPU=${TPU:-local}                                  # name; local: the TPU of this machine
HOSTS=${HOSTS:-1}
CORES=${CORES:-8}                                  # of one host; without TPU: GPUs at most
MAX_LENGTH=${MAX_LENGTH:-512}
BATCH=${BATCH:-48}
STEPS=${STEPS:-8000}
WARMUP=${WARMUP:-1000}
LR=${LR:-3e-5}
LAYER_DECAY=${LAYER_DECAY:-0.75}
SAVE_STEPS=${SAVE_STEPS:-1000}
PYTHON=${PYTHON:-python}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
release=v2.0
[[ $VERSION == v1 ]] && release=v1.1
TRAIN_FILE=${TRAIN_FILE:-$SQUAD_DIR/train-$release.json}
PREDICT_FILE=${PREDICT_FILE:-$SQUAD_DIR/dev-$release.json}

exec "$PYTHON" "$here/squad.py" \
  --use_tpu="$USE_TPU" \
  --tpu="$TPU" \
  --num_hosts="$HOSTS" \
  --num_core_per_host="$CORES" \
  --do_train=True \
  --do_predict=True \
  --train_file="$TRAIN_FILE" \
  --predict_file="$PREDICT_FILE" \
  --train_version="$VERSION" \
  --eval_version="$VERSION" \
  --output_dir="$OUTPUT_DIR" \
  --model_dir="$MODEL_DIR" \
  --init_checkpoint="$INIT_CKPT" \
  --model_config="$MODEL_CONFIG" \
  --tokenizer_path="$VOCAB" \
  --max_seq_length="$MAX_LENGTH" \
  --train_batch_size="$BATCH" \
  --train_steps="$STEPS" \
  --warmup_steps="$WARMUP" \
  --learning_rate="$LR" \
  --lr_layer_decay_rate="$LAYER_DECAY" \
  --save_steps="$SAVE_STEPS" \
  --iterations="$SAVE_STEPS" \
  "$@"
