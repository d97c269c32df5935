# shellcheck shell=bash
# Settings and flags of the fine-tuning scripts, sourced by them after their own defaults.
# Every setting can come from the environment.

CKPT_DIR=${CKPT_DIR:-ckpts/B4-4-4H768-ELEC-TF}
INIT_CKPT=${INIT_CKPT:-$CKPT_DIR/model.ckpt}
MODEL_CONFIG=${MODEL_CONFIG:-$CKPT_DIR/net_config.json}
VOCAB=${VOCAB:-$CKPT_DIR/vocab.uncased.txt}
MAX_LENGTH=${MAX_LENGTH:-512}
USE_TPU=${USE_TPU:-False}
TPU=${TPU:-local}                                  # name; local: the TPU of this machine
HOSTS=${HOSTS:-1}
CORES=${CORES:-1}                                  # of one host; without TPU: GPUs at most
PYTHON=${PYTHON:-python}

programs=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# finetune PROGRAM FLAG...: run a program with the shared flags, then those given, which win.
finetune() {
  local program=$1
  shift
  exec "$PYTHON" "$programs/$program" \
    --use_tpu="$USE_TPU" \
    --tpu="$TPU" \
    --num_hosts="$HOSTS" \
    --num_core_per_host="$CORES" \
    --do_train=True \
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
    --save_steps="$SAVE_STEPS" \
    --iterations="$SAVE_STEPS" \
    "$@"
}
