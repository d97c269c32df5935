"""A program whose backend is not installed says what to install, in one line."""

import pytest

import repo_layout
from funnel.utils.errors import ConfigError, named_if_missing
from half_installation import run_without

CLASSIFIER = ["--dataset=RTE", "--data_dir=nowhere", "--model_dir=run"]
COMMANDS = {
    "pytorch/classifier.py": CLASSIFIER,
    "pytorch/multigpu_classifier.py": CLASSIFIER,
    "pytorch/export_onnx.py": ["--model=nowhere", "--output=file.onnx"],
}


@pytest.mark.parametrize("program", COMMANDS)
def test_programs_name_pytorch(program):
    path = str(repo_layout.ROOT / program)
    done = run_without(["torch"], [path, *COMMANDS[program]])
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: PyTorch is not installed")
    assert "pip install -r requirements/torch.txt" in line


def test_other_packages_are_no_users_mistake():
    with pytest.raises(ModuleNotFoundError), named_if_missing():
        raise ModuleNotFoundError("No module named 'numpy.nothing'", name="numpy.nothing")
    with (
        pytest.raises(ConfigError, match=r"jax.*tpu-compile\.txt.*Python 3.11"),
        named_if_missing(),
    ):
        raise ModuleNotFoundError("No module named 'jax'", name="jax")
