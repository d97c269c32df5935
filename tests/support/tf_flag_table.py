"""Names, types and defaults of the original TensorFlow programs' flags, and of those that are new.

A line is a flag, its type and its default in pretrain (P), classifier (C), squad (S), race (R) and
create_pretrain_data (D).
"""

PROGRAMS = {
    "pretrain": "P",
    "classifier": "C",
    "squad": "S",
    "race": "R",
    "create_pretrain_data": "D",
}
NEW = """
seed PCSR
seeds CSR
freeze CSR
patience CSR
dev_fraction C
overwrite_run PCSR
deterministic PCSR
save_minutes PCSR
layer_decay PCSR
eval_all_ckpt CSR
eval_wait PCSR
save_logits S
indexed_predictions C
prediction_format CSR
write_logits CSR
do_predict R
verbose D
verbosity PCSRD
alsologtostderr PCSRD
logtostderr PCSRD
hide_masked P
num_proc D
use_all_text D
text_column C
text_b_column C
label_column C
labels C
id_column C
encoding C
regression C
multi_label C
task_module C
label_separator C
class_weights C
label_smoothing C
balanced_sampling C
train_file C
dev_file C
test_file C
header C
delimiter C
metric C
"""
ALIASES = {
    "v": ("PCSRD", "verbosity"),
    "model_config_path": ("PCSR", "model_config"),
    "eval_batch_size": ("S", "predict_batch_size"),
}
ORIGINAL = """
adam_beta1 float PCSR=0.9
adam_beta2 float PCSR=0.99
adam_correction bool PCSR=True
adam_epsilon float PCSR=1e-06
ans_loss_weight float S=0.5
block_size str PCSR=3_3_3
bos_id int PCSRD=None
clip float PCSR=1.0
cls_id int PCSRD=None
cls_loss_weight float S=0.5
cls_scope str C=None
conditional_end bool S=True
d_embed int PCSR=512
d_head int PCSR=64
d_inner int PCSR=2048
d_model int PCSR=512
data_dir str CR=""
debug_mode bool CS=False
decay_method str PCSR=poly
decoder_size str PCSR=2
disc_coeff float P=50.0
do_ensemble bool S=False
do_eval bool PCR=False
do_predict bool CS=False
do_submit bool C=False
do_train bool P=True CSR=False
doc_stride int S=128
dropact float PCSR=0.0
dropatt float PCSR=0.1
dropout float PCSR=0.1
end_n_top int S=5
ensemble_ckpts str S=None
ensemble_output_file str S=""
eod_id int PCSRD=None
eop_id int PCSRD=None
eos_id int PCSRD=None
eval_batch_size int P=60 C=8 R=128
eval_ckpt_path str P=None
eval_end_step int CSR=10000000
eval_model_dir str CR=""
eval_split str PCR=dev
eval_start_step int CSR=-1
eval_version str S=v2
ff_activation str PCSR=gelu
gcp_project str PCSR=None
init str PCSR=truncated_normal
init_checkpoint str PCSR=None
init_global_vars bool P=True CSR=False
init_range float PCSR=0.1
init_std float PCSR=0.02
input_glob str D=data/example/*.txt
iterations int PCSR=1000
keep_accents bool S=False
leak_ratio float P=0.1
learning_rate float PCSR=1e-05
log_freq int PCSR=100
loss_type str P=mlm
lr_layer_decay_rate float PCSR=1.0
mask_id int PCSRD=None
master str PCSR=None
max_answer_length int S=64
max_eval_batch int P=-1
max_qa_length int R=128
max_query_length int S=64
max_save int P=100000 CSR=0
max_seq_length int C=128 SR=512
max_tok int P=5
max_word int P=5
min_doc_len int D=1
min_lr_ratio float PCSR=0.0
min_tok int P=1
min_word int P=1
model_config str PCSR=""
model_dir str P=None CSR=""
n_best_size int S=5
n_head int PCSR=8
na_threshold float S=0.0
num_core_per_host int P=16 CSR=8
num_hosts int PCSR=1
num_passes int PC=1
num_predict int P=None
num_proc int S=1
num_task int D=1
output_dir str CSR=""
overwrite bool PCR=False
overwrite_data bool CR=False
overwrite_keys str PCSR=""
pad_id int PCSRD=None
pass_id int D=0
per_core_clip bool PCSR=True
pool_q_only bool PCSR=True
pooling_size int PCSR=2
pooling_type str PCSR=mean
predict_batch_size int C=8 S=128
predict_dir str S=""
predict_file str S=""
prepro_split str S=None
proc_id int S=0
rand_ratio float P=0.1
record_dir str P=None
rel_attn_type str PCSR=factorized
retain_all bool CSR=False
retain_best bool CSR=False
sample_strategy str P=single_token
save_dir str D=proc_data/example
save_steps int P=10000 CSR=None
search_threshold bool S=False
seg_id_a int PCSRD=0
seg_id_b int PCSRD=1
seg_id_cls int PCSRD=2
seg_id_pad int PCSRD=0
sep_id int PCSRD=None
separate_cls bool PCSR=True
seq_len int P=0 D=512
shard_across_host bool P=True
shuffle_buffer int CSR=2048
shuffle_examples bool C=True
skip_nan_grad bool PCSR=False
split str D=train
start_eval_steps int P=200000
start_n_top int S=5
submit_dir str C=None
target_eval_key str S=best_f1
task int D=0
task_name str C=None
tokenizer_path str PCSRD=""
tokenizer_type str PCSRD=word_piece
tpu str PCSR=None
tpu_job_name str PCSR=None
tpu_zone str PCSR=None
train_batch_size int P=60 CSR=128
train_file str S=""
train_steps int P=100000 CR=40000 S=5500
train_version str S=v2
truncate_seq bool PCSR=True
uncased bool PCSRD=True
unk_id int PCSRD=None
use_answer_class bool S=True
use_bfloat16 bool PCSR=False
use_masked_loss bool S=True
use_tpu bool PS=True CR=False
use_wd_exclusion bool PCSR=False
verbose bool PCSR=False
vocab_size int PCSRD=None
warmup_steps int PCSR=0
weight_decay float PCSR=0.0
width_shrink float P=0.25
"""
_TYPES = {"str": str, "int": int, "float": float, "bool": lambda text: text == "True"}


def original_flags(program: str) -> dict[str, object]:
    """Return the default of every original flag of a program by name."""
    found = {}
    for line in ORIGINAL.split("\n")[1:-1]:
        name, kind, *defaults = line.split(" ")
        for item in defaults:
            letters, _, text = item.partition("=")
            if PROGRAMS[program] in letters:
                value = "" if text == '""' else text
                found[name] = None if text == "None" else _TYPES[kind](value)
    return found


def new_flags(program: str) -> set[str]:
    """Return the flags of a program that the original does not have."""
    lines = [line.split(" ") for line in NEW.split("\n")[1:-1]]
    return {name for name, letters in lines if PROGRAMS[program] in letters}
