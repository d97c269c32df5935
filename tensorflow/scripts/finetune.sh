#!/usr/bin/env bash
# Fine-tune on a GLUE or text-classification task, evaluate every checkpoint, write the submission.
#
#   TASK=RTE CKPT_DIR=ckpts/B6-6-6H768-ELEC-TF bash tensorflow/scripts/finetune.sh
#
# Everything below can be set through the environment; further arguments go to classifier.py and
# come last, so they win. STEPS is the task's training examples times its epochs over BATCH.
set -euo pipefail

TASK=${TASK:-RTE}                                  # or tsv, csv, jsonl, json, parquet with their flags

# Batch size, steps, learning rate, length. Ten epochs; QNLI, MNLI and AG three, QQP and IMDB five.
case "${TASK,,}" in
  cola)         settings=(16 5340 1e-5 128) ;;
  sst-2)        settings=(16 42090 1e-5 128) ;;
  mrpc)         settings=(16 2290 2e-5 128) ;;
  sts-b)        settings=(16 3590 2e-5 128) ;;
  rte)          settings=(16 1550 2e-5 128) ;;
  wnli)         settings=(16 400 1e-5 128) ;;
  qnli)         settings=(32 9820 2e-5 128) ;;
  mnli*)        settings=(64 18410 1e-5 128) ;;
  qqp)          settings=(64 28420 1e-5 128) ;;
  imdb)         settings=(32 3905 1e-5 512) ;;
  ag)           settings=(32 11250 2e-5 512) ;;
  *)            settings=(32 "${STEPS:-0}" 2e-5 512) ;;
esac

folder=glue/$TASK
case "${TASK,,}" in mnli*) folder=glue/MNLI ;; imdb | ag) folder=$TASK ;; esac
DATA_DIR=${DATA_DIR:-data/$folder}
OUTPUT_DIR=${OUTPUT_DIR:-proc/$TASK}               # records
MODEL_DIR=${MODEL_DIR:-exp/$TASK}
BATCH=${BATCH:-${settings[0]}}
STEPS=${STEPS:-${settings[1]}}
LR=${LR:-${settings[2]}}
MAX_LENGTH=${MAX_LENGTH:-${settings[3]}}

if ((STEPS < 1)); then
  echo "error: TASK=$TASK has no known number of steps; set STEPS" >&2
  exit 2
fi
WARMUP=${WARMUP:-$((STEPS / 10))}
SAVE_STEPS=${SAVE_STEPS:-$(((STEPS + 9) / 10))}
submit=True
case "${TASK,,}" in imdb | ag | tsv | csv | jsonl | json | parquet) submit=False ;; esac
DO_SUBMIT=${DO_SUBMIT:-$submit}

# Checkpoint, vocabulary, devices: see there.
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

finetune classifier.py \
  --do_eval=True \
  --do_submit="$DO_SUBMIT" \
  --task_name="$TASK" \
  --data_dir="$DATA_DIR" \
  "$@"
