"""Settings of ``tpu_compile.py``, without importing TensorFlow."""

from __future__ import annotations

from dataclasses import MISSING, dataclass

from funnel.cli.flags import check_at_least_one
from funnel.config.heads import DEFAULT_PRETRAINING
from funnel.config.settings import setting

STEPS = ("mlm", "electra", "classifier", "squad", "race")
# Set before JAX is imported. libtpu would ask a metadata server what machine this is, and lock a
# TPU that is not there against a second process; JAX would look for one.
COMPILER_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
}


@dataclass(frozen=True)
class TpuCompileSettings:
    """What to compile, for which TPU, and how to report it."""

    topology: str = setting(MISSING, "TPU, e.g. v3-8, v4-8, v5e-4 or v6e-4; several: v3-8,v4-8")
    model_config: str = setting(MISSING, "published size, e.g. B4-4-4H768, or a net_config.json")
    program: str = setting("electra", "training step to compile", choices=STEPS)
    batch_per_core: int = setting(16, "examples per step and core (a v4 chip is one)")
    seq_len: int = setting(512, "tokens of a sequence")
    num_predict: int = setting(0, "targets per record in pretraining; 0: 15% of seq_len")
    width_shrink: float = setting(
        DEFAULT_PRETRAINING.width_shrink, "width of ELECTRA's generator relative to the model"
    )
    num_labels: int = setting(2, "classes of the classifier")
    use_bfloat16: bool = setting(True, "compute products in bfloat16")
    attn_type: str = setting(
        "factorized", "relative attention", choices=("factorized", "rel_shift")
    )
    find_batch: bool = setting(False, "search the largest batch_per_core that fits")
    train_steps: int = setting(0, "steps of a run, for the days it would take")
    profile: bool = setting(False, "also print the operations that read and write the most bytes")
    output: str = setting("", "JSON file to write the figures to, a list for several TPUs")

    def __post_init__(self) -> None:
        check_at_least_one(
            batch_per_core=self.batch_per_core, seq_len=self.seq_len, num_labels=self.num_labels
        )
        check_at_least_one(num_predict=self.num_predict or 1)

    @property
    def targets(self) -> int:
        """Targets per record."""
        return self.num_predict or max(1, round(0.15 * self.seq_len))
