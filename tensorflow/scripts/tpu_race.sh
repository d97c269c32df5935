#!/usr/bin/env bash
# The same as race.sh on a TPU; what can be set there can be set here.
#
#   TPU=local CORES=8 RACE_DIR=data/RACE bash tensorflow/scripts/tpu_race.sh
#
# Not run by the authors of this file on a TPU: see tensorflow/README.md.
set -euo pipefail

TPU=${TPU:-local}                                  # name; local: the TPU of this machine
HOSTS=${HOSTS:-1}
CORES=${CORES:-8}                                  # of one host
SAVE_STEPS=${SAVE_STEPS:-2400}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

export USE_TPU=${USE_TPU:-True} DEVICES=$CORES SAVE_STEPS MODEL_DIR=${MODEL_DIR:-exp/tpu-race}
exec bash "$here/race.sh" \
  --tpu="$TPU" \
  --num_hosts="$HOSTS" \
  --iterations="$SAVE_STEPS" \
  "$@"
