#!/usr/bin/env bash
# Fine-tune on one text-classification set: length 512, batch 32.
#
#   TASK=imdb INIT_CKPT=ckpts/B6-6-6H768-ELEC-PT bash pytorch/scripts/finetune_textcls.sh --bf16
#
# Everything below and in finetune.sh can be set through the environment; further arguments go to
# classifier.py and come last, so they win. On one small GPU: BATCH=8 and --grad_accum=4.
set -euo pipefail

TASK=${TASK:-imdb}                                 # imdb ag dbpedia yelp2 yelp5 amazon2 amazon5
MAX_LENGTH=${MAX_LENGTH:-512}
BATCH=${BATCH:-32}
LR=${LR:-1e-5}                                     # 1e-5, 2e-5, 3e-5

# The larger the set, the fewer passes it needs.
case "$TASK" in
  imdb) epochs=5 ;;
  ag) epochs=3 ;;
  *) epochs=2 ;;
esac
EPOCHS=${EPOCHS:-$epochs}

export TASK MAX_LENGTH BATCH EPOCHS LR
exec bash "$(dirname "${BASH_SOURCE[0]}")/finetune.sh" "$@"
