"""Models by their names on the Hugging Face hub: the published ones, and downloads to its cache.

``huggingface_hub`` is imported on the first download and may be absent. It decides about cache and
endpoint (``HF_HOME``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``) and about access tokens.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from funnel.config.limits import first_line
from funnel.utils.errors import CheckpointError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)

# Hub name -> name of the file in configs/ and of the release. The names with -base hold the encoder
# only, the others also the decoder.
_SIZES = {
    "small": "B4-4-4H768",
    "medium": "B6-3x2-3x2H768",
    "intermediate": "B6-6-6H768",
    "large": "B8-8-8H1024",
    "xlarge": "B10-10-10H1024",
}
PUBLISHED = {
    f"funnel-transformer/{name}{suffix}": size
    for name, size in _SIZES.items()
    for suffix in ("", "-base")
}

_PART = r"[A-Za-z0-9][\w.-]*"
_NAME = re.compile(rf"(?P<repo>{_PART}/{_PART})(?:@(?P<revision>[\w.-]+(?:/[\w.-]+)*))?")
# Endings of files, which are paths that do not exist and no names of models.
_FILE = re.compile(r"\.(pt|pth|bin|ckpt|safetensors|index|json|txt|npz)(-\d+)?$")
_CONFIG = "config.json"
# Each layout of the weights with the name of a shard, in the order in which they are preferred.
_WEIGHTS = (
    ("model.safetensors", r"model-\d+-of-\d+\.safetensors"),
    ("pytorch_model.bin", r"pytorch_model-\d+-of-\d+\.bin"),
)
_OTHERS = re.compile(
    r"(net_config|labels|tokenizer|tokenizer_config|special_tokens_map|added_tokens)\.json"
    r"|vocab[\w.-]*\.txt|[\w.-]+\.model|funnel_extra\.safetensors"
)


class HubName(NamedTuple):
    """A model on the hub; without ``revision`` that of its branch ``main``."""

    repo: str
    revision: str | None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"

    @property
    def command(self) -> str:
        """How to download the model elsewhere, for messages."""
        revision = "" if self.revision is None else f" --revision {self.revision}"
        folder = self.repo.rpartition("/")[2]
        command = f"hf download {self.repo}{revision} --local-dir {folder}"
        return f"`{command}` downloads it: then give {folder}"


def parse_name(path: str | os.PathLike[str]) -> HubName | None:
    """Return the hub name that a path is: ``NAME/NAME`` or ``NAME/NAME@REVISION``; else None.

    Whatever exists under that path here precedes the hub, and so does a directory of the first
    name, except before the published models: a clone of this repository may have that name.
    """
    text = Path(path).as_posix()
    match = _NAME.fullmatch(text)
    if match is None or _FILE.search(text) or os.path.lexists(path):
        return None
    if os.path.isdir(Path(path).parts[0]) and match["repo"] not in PUBLISHED:
        return None
    if os.path.lexists(f"{text}.index"):
        return None
    return HubName(match["repo"], match["revision"])


def resolve(path: str | os.PathLike[str]) -> Path:
    """Return a path as it is or, if it is a hub name, the directory of the downloaded model.

    Raises:
        CheckpointError: the model cannot be downloaded and is not in the cache.
    """
    name = parse_name(path)
    return Path(path) if name is None else fetch(name)


@functools.cache
def fetch(name: HubName) -> Path:
    """Download the files that loading needs, unless the cache has them; return their directory.

    Raises:
        CheckpointError: there is no such model, it has no weights, or the hub cannot be reached and
            the cache does not have the model. One line that says what to do.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise CheckpointError(
            f"{name}: does not exist here; if it is a model of the Hugging Face hub, "
            f"{name.command} (with `pip install huggingface_hub` the name is enough)"
        ) from None
    folder = _download(HfApi(library_name="funnel-transformer"), name)
    logger.info("%s%s: %s", name, _describe_size(name), folder)
    return folder


def _describe_size(name: HubName) -> str:
    size = PUBLISHED.get(name.repo)
    return "" if size is None else f" ({size})"


def _download(api: HfApi, name: HubName) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        found = api.model_info(name.repo, revision=name.revision)
        files = choose_files([file.rfilename for file in found.siblings or ()], name)
        # The first file records the revision in the cache; the others are of the same commit.
        config = Path(hf_hub_download(name.repo, _CONFIG, revision=name.revision))
        for file in files:
            hf_hub_download(name.repo, file, revision=config.parent.name)
    except CheckpointError:
        raise
    except GatedRepoError:
        raise CheckpointError(
            f"{name}: its authors give access on request: ask on {api.endpoint}/{name.repo}, then "
            "`hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise CheckpointError(
            f"{name}: does not exist here, and {api.endpoint} has no such model (a private one "
            "needs `hf auth login`)"
        ) from None
    except RevisionNotFoundError:
        raise CheckpointError(f"{name}: {name.repo} has no revision {name.revision}") from None
    except Exception as error:  # of the transport, whose classes differ between versions
        return _find_in_cache(name, first_line(error))
    return config.parent


def choose_files(files: Collection[str], name: object = "the model") -> list[str]:
    """Return the files of a repository that loading needs: config, weights of one kind, vocabulary.

    Raises:
        CheckpointError: it has no config or no weights.
    """
    if _CONFIG not in files:
        raise CheckpointError(f"{name}: has no {_CONFIG}, so it is no model that can be loaded")
    chosen = [file for file in files if _OTHERS.fullmatch(file)]
    for single, shard in _WEIGHTS:
        if single in files:
            return [_CONFIG, single, *chosen]
        index = f"{single}.index.json"
        if index in files:
            shards = [file for file in files if re.fullmatch(shard, file)]
            return [_CONFIG, index, *shards, *chosen]
    raise CheckpointError(
        f"{name}: has neither {' nor '.join(single for single, _ in _WEIGHTS)}; weights of other "
        "frameworks are not read"
    )


def _find_in_cache(name: HubName, reason: str) -> Path:
    """Return the directory of a model that was downloaded before.

    Raises:
        CheckpointError: it was not.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(name.repo, _CONFIG, revision=name.revision)
    if isinstance(found, str):
        folder = Path(found).parent
        names = {file.name for file in folder.iterdir()}
        if names & {file for single, _ in _WEIGHTS for file in (single, f"{single}.index.json")}:
            logger.info("%s: the hub was not reached (%s); the cached model is used", name, reason)
            return folder
    raise CheckpointError(
        f"{name}: does not exist here, and the hub was not reached ({reason}); nor is it in the "
        f"cache, {constants.HF_HUB_CACHE}. Where there is a connection, {name.command}"
    )
