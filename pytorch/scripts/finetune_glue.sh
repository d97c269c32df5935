#!/usr/bin/env bash
# Fine-tune on one GLUE task with the settings recommended for it.
#
#   TASK=RTE INIT_CKPT=ckpts/B6-6-6H768-ELEC-PT bash pytorch/scripts/finetune_glue.sh --bf16
#
# Everything below and in finetune.sh can be set through the environment; further arguments go to
# classifier.py and come last, so they win.
set -euo pipefail

TASK=${TASK:-CoLA}                                 # CoLA SST-2 MRPC QQP STS-B MNLI QNLI RTE WNLI
GLUE_DIR=${GLUE_DIR:-data/glue}                    # holds one folder per task

# Batch size, epochs, learning rate (grid in the comment where the best one varies).
case "$TASK" in
  CoLA)  settings=(16 10 1e-5) ;;
  SST-2) settings=(16 10 1e-5) ;;
  MRPC)  settings=(16 10 2e-5) ;;                  # 1e-5, 2e-5, 3e-5
  STS-B) settings=(16 10 2e-5) ;;
  RTE)   settings=(16 10 2e-5) ;;                  # 1e-5, 2e-5
  WNLI)  settings=(16 10 1e-5) ;;
  QNLI)  settings=(32 3 2e-5) ;;
  MNLI*) settings=(64 3 1e-5) ;;
  QQP)   settings=(64 5 2e-5) ;;
  *) echo "error: TASK=$TASK is no GLUE task with known settings" >&2; exit 2 ;;
esac
BATCH=${BATCH:-${settings[0]}}
EPOCHS=${EPOCHS:-${settings[1]}}
LR=${LR:-${settings[2]}}

# Both MNLI tasks train on the files of one folder.
folder=$TASK
[[ $TASK == MNLI* ]] && folder=MNLI
DATA_DIR=${DATA_DIR:-$GLUE_DIR/$folder}

export TASK DATA_DIR BATCH EPOCHS LR
exec bash "$(dirname "${BASH_SOURCE[0]}")/finetune.sh" "$@"
