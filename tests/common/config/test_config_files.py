"""Where a configuration is found: a file, a directory, or the name of a published size."""

from pathlib import Path

import pytest

from funnel.config.files import find_config
from funnel.config.model import ModelConfig
from funnel.utils.errors import ConfigError


@pytest.mark.parametrize("name", ["B4-4-4H768", "B4-4-4H768.json", "configs/B4-4-4H768.json"])
def test_published_sizes_have_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    config = ModelConfig.load(name)
    assert (config.block_size, config.d_model) == ("4_4_4", 768)


def test_a_file_precedes_a_published_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    with pytest.raises(ConfigError, match=r"model config tiny holds none of config\.json"):
        find_config(Path("tiny"))
    (tmp_path / "tiny" / "net_config.json").write_text("{}")
    assert find_config(Path("tiny")) == Path("tiny/net_config.json")


@pytest.mark.parametrize("path", ["nosuch", "configs/nosuch.json", "here/tiny", "/tiny.json"])
def test_others_are_refused(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"model config \S+ does not exist"):
        find_config(Path(path))
