"""Downloads packed as by their publishers, with synthetic contents of any size."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from funnel.tasks import get_task
from funnel.tasks.tables import Source
from funnel_data.downloads.catalog import GROUPS, DownloadSet

CSV_ROW = '"{label}","A ""quoted"" title","Some text, line {row}."\n'


def find(name: str) -> DownloadSet:
    return next(s for sets in GROUPS.values() for s in sets if s.name == name)


def site_files(names: list[str], rows: int | None = None) -> dict[str, bytes]:
    """Return the downloads of sets by their path in a mirror.

    ``rows`` is the number of records of each file, None the published one.
    """
    files: dict[str, bytes] = {}
    for name in names:
        dataset = find(name)
        contents = _PUBLISHERS.get(dataset.check, _task_files)(dataset, rows)
        if name == "MRPC":
            contents = _mrpc(contents)
        for url in dataset.urls:
            parts = urlsplit(url)
            files[f"/{parts.netloc}{parts.path}"] = _packed(url, dataset, contents)
    return files


def _packed(url: str, dataset: DownloadSet, contents: Mapping[str, bytes]) -> bytes:
    file = url.rsplit("/", 1)[-1]
    if file.endswith(".zip"):
        return zipped({f"{dataset.name}/{name}": data for name, data in contents.items()})
    if file.endswith("gz"):
        return tarred({f"{file.split('.')[0]}/{name}": data for name, data in contents.items()})
    return contents["diagnostic.tsv" if file == "AX.tsv" else file]


def zipped(contents: Mapping[str, bytes], onto: bytes = b"") -> bytes:
    """Return a zip file of ``contents``, added to the zip file ``onto`` if given."""
    packed = io.BytesIO(onto)
    with zipfile.ZipFile(packed, "a" if onto else "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return packed.getvalue()


def tarred(contents: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, data in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def _task_files(dataset: DownloadSet, rows: int | None) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for task in map(get_task, dataset.tasks):
        for source in task.sources.values():
            name, labels = source.names[-1 if task.name.startswith("sst") else 0], task.labels
            count = rows or dataset.published[name]
            if source.format == "folders":
                for number in range(count // 2):
                    files |= {f"{name}/{x}/{number}.txt": b"Text.<br />" for x in labels}
                    files[f"{name}/unsup/{number}.txt"] = b"Not wanted."
            elif source.format == "csv":
                text = _csv(source, count, labels)
                files[name] = text.encode()
            else:
                files[name] = _tsv(source, count, labels or ("0.0", "5.0")).encode()
    return files


def _csv(source: Source, rows: int, labels: tuple[str, ...]) -> str:
    row = CSV_ROW if source.width == 3 else CSV_ROW.replace('"A ""quoted"" title",', "")
    return "".join(row.format(label=labels[n % len(labels)], row=n) for n in range(rows))


def _tsv(source: Source, rows: int, labels: tuple[str, ...]) -> str:
    columns = [source.text_a, source.text_b or 0, source.label or 0]
    width = source.width or max(columns) + (2 if source.label == -1 else 1)
    cells = [f"c{number}" for number in range(width)]
    lines = ["\t".join(cells)] if source.header else []
    for row in range(rows):
        cells[0], cells[source.text_a] = str(row), f'It"s row {row}.'
        if source.label is not None:
            cells[source.label] = labels[row % len(labels)]
        lines.append("\t".join(cells))
    return "\n".join(lines) + "\n"


def _mrpc(contents: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the sources of GLUE's MRPC: all pairs, the test set, the ids of development pairs."""
    rows = {name: data.decode().splitlines()[1:] for name, data in contents.items()}
    header, pairs = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", []
    for number, _ in enumerate(rows["dev.tsv"] + rows["train.tsv"]):
        pairs.append(f'{number % 2}\t{number}\t{number + 1}\tSaid "one {number}.\tSaid two.')
    ids = ["\t".join(pair.split("\t")[1:3]) for pair in pairs[: len(rows["dev.tsv"])]]
    test = [f"1\t{n}\t0\tA.\tB." for n, _ in enumerate(rows["test.tsv"])]
    return {
        "msr_paraphrase_train.txt": ("\ufeff" + "\r\n".join([header, *pairs])).encode(),
        "msr_paraphrase_test.txt": ("\ufeff" + "\r\n".join([header, *test])).encode(),
        "mrpc_dev_ids.tsv": "\n".join(ids).encode(),
    }


def _squad(dataset: DownloadSet, rows: int | None) -> dict[str, bytes]:
    files = {}
    for name, published in dataset.published.items():
        answer = {"text": "Paris", "answer_start": 0}
        qas = [
            {"id": f"{name}-{n}", "question": f"Where {n}?", "answers": [answer]}
            for n in range(rows or published)
        ]
        article = {"title": "T", "paragraphs": [{"context": "Paris is old.", "qas": qas}]}
        files[name] = json.dumps({"version": "x", "data": [article]}).encode()
    return files


def _race(dataset: DownloadSet, rows: int | None) -> dict[str, bytes]:
    page = {
        "article": "An article.",
        "questions": ["What _ ?", "Why?"],
        "options": [["a", "b", "c", "d"]] * 2,
        "answers": ["A", "D"],
        "id": "x",
    }
    data = json.dumps(page).encode()
    return {
        f"{name}/{number}.txt": data
        for name, published in dataset.published.items()
        for number in range((rows or published) // 2)
    }


def _checkpoint(dataset: DownloadSet, rows: int | None) -> dict[str, bytes]:
    del rows
    weights = {"model.ckpt.index": b"i", "model.ckpt.data-00000-of-00001": b"d" * 5000}
    if dataset.name.endswith("-PT"):
        weights = {"model.pt": b"p" * 5000}
    config = "net_config.pytorch.json" if dataset.name.endswith("-PT") else "net_config.json"
    return {**weights, config: b"{}", "vocab.uncased.txt": b"<unk>\n"}


_PUBLISHERS: dict[str, Callable[[DownloadSet, int | None], dict[str, bytes]]] = {
    "squad": _squad,
    "race": _race,
    "checkpoint": _checkpoint,
}
