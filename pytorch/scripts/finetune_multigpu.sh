#!/usr/bin/env bash
# Fine-tune on all GPUs of this machine; by default MNLI with a global batch of 64.
#
#   INIT_CKPT=ckpts/B8-8-8H1024-ELEC-PT bash pytorch/scripts/finetune_multigpu.sh --bf16
#   PROCESSES=2 bash pytorch/scripts/finetune_multigpu.sh --device_id=-1     # two CPU processes
#
# Everything below and in finetune.sh can be set through the environment; further arguments go to
# the program and come last, so they win. Several machines: use torchrun with classifier.py instead.
set -euo pipefail

TASK=${TASK:-MNLI}
DATA_DIR=${DATA_DIR:-data/glue/$TASK}
GLOBAL_BATCH=${GLOBAL_BATCH:-64}
EPOCHS=${EPOCHS:-3}
LR=${LR:-1e-5}
PROCESSES=${PROCESSES:-$( (nvidia-smi --list-gpus 2>/dev/null || true) | wc -l)}

if [[ $PROCESSES -lt 1 ]]; then
  echo "error: no GPU found; set PROCESSES and pass --device_id=-1 to use the CPU" >&2
  exit 2
fi
if ((GLOBAL_BATCH % PROCESSES)); then
  echo "error: GLOBAL_BATCH=$GLOBAL_BATCH is no multiple of PROCESSES=$PROCESSES" >&2
  exit 2
fi
BATCH=$((GLOBAL_BATCH / PROCESSES))
PROGRAM=multigpu_classifier.py

export TASK DATA_DIR EPOCHS LR BATCH PROGRAM
exec bash "$(dirname "${BASH_SOURCE[0]}")/finetune.sh" --distributed_world_size="$PROCESSES" "$@"
