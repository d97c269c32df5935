#!/usr/bin/env bash
# Fine-tune on all GPUs of this machine; by default MNLI with a global batch of 64.
#
#   INIT_CKPT=ckpts/B8-8-8H1024-ELEC-PT bash pytorch/scripts/finetune_multigpu.sh --bf16
#   PROCESSES=2 bash pytorch/scripts/finetune_multigpu.sh --device_id=-1     # two CPU processes
#
# Everything below can be set through the environment; further arguments go to the program and
# come last, so they win. Several machines: use torchrun with pytorch/classifier.py instead.
set -euo pipefail

TASK=${TASK:-MNLI}
DATA_DIR=${DATA_DIR:-data/glue/$TASK}
INIT_CKPT=${INIT_CKPT:-ckpts/B4-4-4H768-ELEC-PT}   # any checkpoint: ours, released, TensorFlow
TOKENIZER=${TOKENIZER:-$INIT_CKPT/vocab.uncased.txt}
MODEL_DIR=${MODEL_DIR:-exp/$TASK}
CACHE_DIR=${CACHE_DIR:-proc/$TASK}
MAX_LENGTH=${MAX_LENGTH:-128}
GLOBAL_BATCH=${GLOBAL_BATCH:-64}
EPOCHS=${EPOCHS:-3}
LR=${LR:-1e-5}
PYTHON=${PYTHON:-python}
PROCESSES=${PROCESSES:-$( (nvidia-smi --list-gpus 2>/dev/null || true) | wc -l)}

if [[ $PROCESSES -lt 1 ]]; then
  echo "error: no GPU found; set PROCESSES and pass --device_id=-1 to use the CPU" >&2
  exit 2
fi
if ((GLOBAL_BATCH % PROCESSES)); then
  echo "error: GLOBAL_BATCH=$GLOBAL_BATCH is no multiple of PROCESSES=$PROCESSES" >&2
  exit 2
fi

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

exec "$PYTHON" "$here/multigpu_classifier.py" \
  --distributed_world_size="$PROCESSES" \
  --dataset="$TASK" \
  --data_dir="$DATA_DIR" \
  --output_dir="$CACHE_DIR" \
  --model_dir="$MODEL_DIR" \
  --init_ckpt="$INIT_CKPT" \
  --tokenizer_path="$TOKENIZER" \
  --max_length="$MAX_LENGTH" \
  --train_bsz="$((GLOBAL_BATCH / PROCESSES))" \
  --epochs="$EPOCHS" \
  --lr="$LR" \
  "$@"
