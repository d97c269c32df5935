r"""Write hidden states, summary and logits of a model for texts or token ids.

    {program} --model CKPT --text lines.txt --output features.npz
    {program} --model CKPT --ids batch.npz --output features.npz
    {program} --model CKPT --text lines.txt --output vectors.npz \
        --layers=-1 --pooling=mean    # one vector per line, of the last encoder layer

The output holds float32 arrays `embedding` [B,T,E], `hidden_0` ... (one [B,T',D] per executed
encoder layer), `decoder` [B,T,D] if the model has one, `summary` [B,D] and
`discriminator_logits` [B,T] (positive = original token) if the checkpoint has those weights; with
--text also the token ids they belong to. --ids reads `input_ids` and, if there, `token_type_ids`
(0, 1, 2 = [CLS]) and `attention_mask` (1 = real token), each [B,T].

T is the length of the longest line, and all layers are large: --layers chooses some of these
arrays, by name or number, and --pooling=cls|mean|max writes one vector [B,D] per sequence instead,
[CLS] and [SEP] included (but for --exclude_special), padding left out; token ids and logits are
then omitted. With one layer and --pooling, an --output that ends in .npy is one array [sequences,
D], which numpy.load(..., mmap_mode="r") maps into memory. --normalize scales vectors to length 1.
Output is written batch by batch, so memory does not depend on the number of sequences.
"""

from __future__ import annotations

from collections.abc import Sequence

from funnel.cli.command import entry_point
from funnel.cli.flags import parse_settings
from funnel_torch.cli.settings.extract_features import TorchExtractionSettings


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    settings = parse_settings(TorchExtractionSettings, __doc__, argv)
    from funnel_torch.cli.extract_features import run  # imports PyTorch, which --help does not need

    run(settings)


command = entry_point(main)
