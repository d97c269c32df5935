"""The sets that can be downloaded: URLs, files to keep, and published numbers of records.

A set becomes a folder that :mod:`funnel.tasks` or a checkpoint loader reads. URLs and sizes are as
published by the authors, who did not publish checksums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_GLUE = "https://dl.fbaipublicfiles.com/glue/data/"
_SENTEVAL = "https://dl.fbaipublicfiles.com/senteval/senteval_data/"
_ZHANG = "https://s3.amazonaws.com/fast-ai-nlp/"
_SQUAD = "https://rajpurkar.github.io/SQuAD-explorer/dataset/"
_CHECKPOINTS = "http://storage.googleapis.com/funnel-transformer/funnel_ckpts_all/"


@dataclass(frozen=True)
class DownloadSet:
    """A folder that is built from downloads.

    Attributes:
        name: name of the folder, also on the command line.
        urls: files to download.
        keep: patterns of the archive members to keep, see
            :func:`funnel_data.downloads.archives.unpack`; other files are kept as they are.
        published: number of records by file (``train.tsv``), or by folder for sets of many files.
        build: how the folder is built, a key of :data:`funnel_data.downloads.recipes.BUILDERS`.
        check: how records are counted, a key of :data:`funnel_data.downloads.recipes.CHECKS`.
        tasks: names of the tasks that read the folder (``check="task"``).
        download_mb: approximate size of the download in MB.
        disk_mb: approximate size of the folder in MB.
    """

    name: str
    urls: tuple[str, ...]
    keep: tuple[str, ...] = ()
    published: Mapping[str, int] = field(default_factory=dict, hash=False)
    build: str = "unpack"
    check: str = "task"
    tasks: tuple[str, ...] = ()
    download_mb: float = 0
    disk_mb: float = 0


def _split_sizes(train: int, dev: int, test: int) -> dict[str, int]:
    return {"train.tsv": train, "dev.tsv": dev, "test.tsv": test}


def _glue(
    name: str, file: str, published: Mapping[str, int], download_mb: float, disk_mb: float
) -> DownloadSet:
    tasks = ("mnli_matched", "mnli_mismatched") if name == "MNLI" else (name,)
    return DownloadSet(
        name,
        (f"{_GLUE}{file}.zip",),
        keep=("*.tsv",),
        published=published,
        tasks=tasks,
        download_mb=download_mb,
        disk_mb=disk_mb,
    )


_MNLI_SIZES = {
    "train.tsv": 392_702,
    "dev_matched.tsv": 9_815,
    "dev_mismatched.tsv": 9_832,
    "test_matched.tsv": 9_796,
    "test_mismatched.tsv": 9_847,
}

# Sizes: Wang et al. 2018, table 1, and the files themselves.
GLUE = (
    _glue("CoLA", "CoLA", _split_sizes(8_551, 1_043, 1_063), 0.4, 0.6),
    _glue("SST-2", "SST-2", _split_sizes(67_349, 872, 1_821), 7, 5),
    DownloadSet(
        "MRPC",
        (
            f"{_SENTEVAL}msr_paraphrase_train.txt",
            f"{_SENTEVAL}msr_paraphrase_test.txt",
            f"{_GLUE}mrpc_dev_ids.tsv",
        ),
        published=_split_sizes(3_668, 408, 1_725),
        build="mrpc",
        tasks=("mrpc",),
        download_mb=1.5,
        disk_mb=1.5,
    ),
    _glue("QQP", "QQP-clean", _split_sizes(363_846, 40_430, 390_965), 40, 110),
    _glue("STS-B", "STS-B", _split_sizes(5_749, 1_500, 1_379), 0.8, 1.2),
    _glue("MNLI", "MNLI", _MNLI_SIZES, 313, 420),
    _glue("QNLI", "QNLIv2", _split_sizes(104_743, 5_463, 5_463), 11, 30),
    _glue("RTE", "RTE", _split_sizes(2_490, 277, 3_000), 0.7, 1.9),
    _glue("WNLI", "WNLI", _split_sizes(635, 71, 146), 0.03, 0.2),
    DownloadSet(
        "diagnostic",
        (f"{_GLUE}AX.tsv",),
        published={"diagnostic.tsv": 1_104},
        build="diagnostic",
        tasks=("diagnostic",),
        download_mb=0.2,
        disk_mb=0.2,
    ),
)


def _csv(
    name: str, file: str, sizes: tuple[int, int], megabytes: tuple[float, float]
) -> DownloadSet:
    return DownloadSet(
        name,
        (f"{_ZHANG}{file}_csv.tgz",),
        keep=("train.csv", "test.csv", "*.txt"),
        published={"train.csv": sizes[0], "test.csv": sizes[1]},
        tasks=(name,),
        download_mb=megabytes[0],
        disk_mb=megabytes[1],
    )


# Sizes: Maas et al. 2011; Zhang et al. 2015, table 3.
TEXTCLS = (
    DownloadSet(
        "imdb",
        ("https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",),
        # The 50,000 reviews without a label (train/unsup) are left out.
        keep=tuple(f"{s}/{label}/*.txt" for s in ("train", "test") for label in ("neg", "pos")),
        published={"train": 25_000, "test": 25_000},
        tasks=("imdb",),
        download_mb=84,
        disk_mb=220,
    ),
    _csv("ag", "ag_news", (120_000, 7_600), (12, 32)),
    _csv("dbpedia", "dbpedia", (560_000, 70_000), (68, 200)),
    _csv("yelp2", "yelp_review_polarity", (560_000, 38_000), (166, 440)),
    _csv("yelp5", "yelp_review_full", (650_000, 50_000), (196, 520)),
    _csv("amazon2", "amazon_review_polarity", (3_600_000, 400_000), (688, 1_760)),
    _csv("amazon5", "amazon_review_full", (3_000_000, 650_000), (644, 1_610)),
)

# Sizes in questions: Rajpurkar et al. 2016, 2018.
SQUAD = (
    DownloadSet(
        "squad",
        tuple(f"{_SQUAD}{split}-v{v}.json" for v in ("1.1", "2.0") for split in ("train", "dev")),
        published={
            "train-v1.1.json": 87_599,
            "dev-v1.1.json": 10_570,
            "train-v2.0.json": 130_319,
            "dev-v2.0.json": 11_873,
        },
        build="copy",
        check="squad",
        download_mb=82,
        disk_mb=82,
    ),
)

# Sizes in questions: Lai et al. 2017, table 2.
RACE = (
    DownloadSet(
        "race",
        ("http://www.cs.cmu.edu/~glai1/data/race/RACE.tar.gz",),
        keep=tuple(
            f"{split}/{level}/*.txt"
            for split in ("train", "dev", "test")
            for level in ("middle", "high")
        ),
        published={
            "train/middle": 25_421,
            "train/high": 62_445,
            "dev/middle": 1_436,
            "dev/high": 3_451,
            "test/middle": 1_436,
            "test/high": 3_498,
        },
        check="race",
        download_mb=25,
        disk_mb=140,
    ),
)

# The dump changes every month, so there is no size to compare with.
WIKIPEDIA = (
    DownloadSet(
        "wikipedia",
        ("https://dumps.wikimedia.org/enwiki/latest/enwiki-latest-pages-articles.xml.bz2",),
        build="copy",
        check="none",
        download_mb=24_000,
        disk_mb=24_000,
    ),
)

# Millions of parameters without and with decoder by model size (python -m funnel.flops).
CHECKPOINT_SIZES = {
    "B4-4-4H768": (116, 131),
    "B6-3x2-3x2H768": (116, 131),
    "B6-6-6H768": (162, 177),
    "B8-8-8H1024": (359, 386),
    "B10-10-10H1024": (441, 468),
}
CHECKPOINT_FORMATS = ("PT", "TF", "FULL-TF")


def checkpoint_name(size: str, form: str) -> str:
    """Return the name of a released archive, which is also that of the folder in it."""
    return f"{size}-ELEC-{form}"


def _checkpoint(size: str, form: str) -> DownloadSet:
    encoder, decoder = CHECKPOINT_SIZES[size]
    # 4 bytes per parameter. A full release also has two Adam slots per parameter, and a generator
    # of about a tenth of the size. Weights hardly compress.
    megabytes = 4 * {"PT": encoder, "TF": decoder, "FULL-TF": 3.3 * decoder}[form]
    name = checkpoint_name(size, form)
    return DownloadSet(
        name,
        (f"{_CHECKPOINTS}{name}.tar.gz",),
        keep=("*",),
        check="checkpoint",
        download_mb=0.93 * megabytes,
        disk_mb=megabytes,
    )


CHECKPOINTS = tuple(
    _checkpoint(size, form) for size in CHECKPOINT_SIZES for form in CHECKPOINT_FORMATS
)

GROUPS: Mapping[str, tuple[DownloadSet, ...]] = {
    "glue": GLUE,
    "textcls": TEXTCLS,
    "squad": SQUAD,
    "race": RACE,
    "wikipedia": WIKIPEDIA,
    "ckpts": CHECKPOINTS,
}
