#!/usr/bin/env bash
# pretrain.sh on a TPU, for B6-6-6H768; it takes the same settings.
#
#   TPU=local CORES=8 RECORD_DIR=records MODEL_DIR=exp bash tensorflow/scripts/tpu_pretrain.sh
#
# Not tested on a TPU: see docs/tpu.md.
set -euo pipefail

TPU=${TPU:-local}                                  # name; local: the TPU of this machine
ZONE=${ZONE:-}
PROJECT=${PROJECT:-}
HOSTS=${HOSTS:-1}
CORES=${CORES:-8}                                  # of one host
ITERATIONS=${ITERATIONS:-1000}                     # steps between two returns to the host

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
address=(--tpu="$TPU")
[[ -n $ZONE ]] && address+=(--tpu_zone="$ZONE")
[[ -n $PROJECT ]] && address+=(--gcp_project="$PROJECT")

export LOSS=${LOSS:-electra} DEVICES=$CORES
export MODEL_DIR=${MODEL_DIR:-exp/tpu-pretrain-$LOSS}
exec bash "$here/pretrain.sh" \
  --use_tpu=True \
  --use_bfloat16=True \
  "${address[@]}" \
  --num_hosts="$HOSTS" \
  --iterations="$ITERATIONS" \
  --block_size="${BLOCK_SIZE:-6_6_6}" \
  "$@"
