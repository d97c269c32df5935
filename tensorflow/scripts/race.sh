#!/usr/bin/env bash
# Fine-tune on RACE and evaluate every checkpoint, without TPU.
#
#   RACE_DIR=data/RACE CKPT_DIR=ckpts/B6-6-6H768-ELEC-TF bash tensorflow/scripts/race.sh
#
# Everything below can be set through the environment; further arguments go to race.py and come
# last, so they win.
set -euo pipefail

RACE_DIR=${RACE_DIR:-data/RACE}                    # holds train, dev and test
CKPT_DIR=${CKPT_DIR:-ckpts/B4-4-4H768-ELEC-TF}
INIT_CKPT=${INIT_CKPT:-$CKPT_DIR/model.ckpt}
MODEL_CONFIG=${MODEL_CONFIG:-$CKPT_DIR/net_config.json}
VOCAB=${VOCAB:-$CKPT_DIR/vocab.uncased.txt}
OUTPUT_DIR=${OUTPUT_DIR:-proc/race}                # records
MODEL_DIR=${MODEL_DIR:-exp/race}
DEVICES=${DEVICES:-1}                              # GPUs at most
MAX_LENGTH=${MAX_LENGTH:-512}
QA_LENGTH=${QA_LENGTH:-128}
BATCH=${BATCH:-16}                                 # questions, of four sequences each
EVAL_BATCH=${EVAL_BATCH:-32}
STEPS=${STEPS:-24000}
WARMUP=${WARMUP:-2400}
LR=${LR:-2e-5}
SAVE_STEPS=${SAVE_STEPS:-2400}
PYTHON=${PYTHON:-python}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

exec "$PYTHON" "$here/race.py" \
  --use_tpu="${USE_TPU:-False}" \
  --num_core_per_host="$DEVICES" \
  --do_train=True \
  --do_eval=True \
  --data_dir="$RACE_DIR" \
  --output_dir="$OUTPUT_DIR" \
  --model_dir="$MODEL_DIR" \
  --init_checkpoint="$INIT_CKPT" \
  --model_config="$MODEL_CONFIG" \
  --tokenizer_path="$VOCAB" \
  --max_seq_length="$MAX_LENGTH" \
  --max_qa_length="$QA_LENGTH" \
  --train_batch_size="$BATCH" \
  --eval_batch_size="$EVAL_BATCH" \
  --train_steps="$STEPS" \
  --warmup_steps="$WARMUP" \
  --learning_rate="$LR" \
  --save_steps="$SAVE_STEPS" \
  "$@"
