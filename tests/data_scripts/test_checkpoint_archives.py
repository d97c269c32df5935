"""Archives of released checkpoints in the forms that exist: model.ckpt, model.ckpt-STEP, *.pt."""

import tarfile

import pytest

from checkpoint_cases import TINY, assert_same, random_checkpoint
from funnel.checkpoints import load_checkpoint, save_checkpoint
from funnel.utils.errors import DataError
from funnel_data.downloads import catalog, recipes

SET = next(dataset for dataset in catalog.CHECKPOINTS if dataset.name.endswith("-ELEC-TF"))


def _archive(tmp_path, prefix, without=""):
    """Write an archive as released: one folder with weights, config and vocabulary."""
    checkpoint, source = random_checkpoint(TINY), tmp_path / SET.name
    save_checkpoint(checkpoint, source / prefix, "tf")
    (source / "vocab.uncased.txt").write_text("[PAD]\n")
    state = source / "checkpoint"
    state.write_text(f'model_checkpoint_path: "/home/somebody/exp/{prefix}"\n')
    path = tmp_path / f"{SET.name}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(source.iterdir()):
            if not without or without not in file.name:
                archive.add(file, f"{SET.name}/{file.name}")
    return checkpoint, path


@pytest.mark.parametrize("prefix", ["model.ckpt", "model.ckpt-1000000"])
def test_both_names_of_the_prefix_are_accepted_and_load(tmp_path, prefix):
    checkpoint, archive = _archive(tmp_path, prefix)
    folder = tmp_path / "ckpts"
    folder.mkdir()
    recipes.build(SET, [archive], folder)
    assert recipes.count(SET, folder) == {}
    assert_same(load_checkpoint(folder).tensors, checkpoint.tensors)


@pytest.mark.parametrize(
    ("without", "told"),
    [
        (".data-", r"model.ckpt-9.index without model.ckpt-9.data-\*"),
        (".index", "no weights .*model.ckpt-STEP.index"),
        ("net_config", "no configuration"),
    ],
)
def test_an_incomplete_archive(tmp_path, without, told):
    _, archive = _archive(tmp_path, "model.ckpt-9", without)
    folder = tmp_path / "ckpts"
    folder.mkdir()
    recipes.build(SET, [archive], folder)
    with pytest.raises(DataError, match=told):
        recipes.count(SET, folder)
