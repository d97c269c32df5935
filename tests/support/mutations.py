"""Seeded damage to JSON texts and to named arrays: what the structure of a file can have wrong."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import numpy as np

# Values as JSON text, since some cannot be written by json.dumps.
TEXTS = (
    *("null", "true", "false", "0", "-1", "1", "2", "3", "0.5", "-0.0", "1.0", "12", "1e3"),
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-400"),
    *("2147483647", "2147483648", "4294967306", str(10**30), "9" * 6000, "9" * 400),
    *('""', '"0"', '"mean"', '"null"', '"1_1"', '"4x4_4x4"', '"1x99999999"', '"9999999999999"'),
    *('"\\ud800"', '"\\u0000"', '"a\\nb"', '"' + "x" * 300 + '"', '"' + "1_" * 9000 + '1"'),
    *("[]", "[1]", "[1, 1]", '["1"]', "[[1]]", "[99999999]", "[1.5, 1]", "[" * 300 + "]" * 300),
    *("{}", '{"a": 1}', "[" * 100_000, '{"a":' * 100_000),
)


def mutate_json(text: str, rng: random.Random) -> str:
    """Return the text of an object with one key removed, added, repeated or with another value."""
    members = {key: json.dumps(value) for key, value in json.loads(text).items()}
    key = rng.choice(list(members))
    kind = rng.choice(["value"] * 6 + ["remove", "add", "repeat", "nest", "cut"])
    if kind == "value":
        members[key] = rng.choice(TEXTS)
    elif kind == "remove":
        del members[key]
    elif kind == "add":
        members[rng.choice(["new", "k" * 300, "a\nb", "architectures"])] = rng.choice(TEXTS)
    pairs = [f"{json.dumps(name)}: {value}" for name, value in members.items()]
    if kind == "repeat":
        pairs.append(f"{json.dumps(key)}: {rng.choice(TEXTS)}")
    written = "{" + ", ".join(pairs) + "}"
    if kind == "nest":
        return f"[{written}]"
    return written[: rng.randrange(len(written))] if kind == "cut" else written


def mutate_arrays(
    arrays: Mapping[str, np.ndarray], rng: random.Random
) -> tuple[str, dict[str, np.ndarray]]:
    """Return the kind of damage and the arrays with it, or with a change that changes nothing."""
    found = {name: np.array(values) for name, values in arrays.items()}
    names = sorted(found)
    name = rng.choice(names)
    values = found[name]
    changes: dict[str, Any] = {
        "remove": lambda: found.pop(name),
        "rename": lambda: found.update({name + rng.choice(["x", "/adam", ".0"]): found.pop(name)}),
        "integers": lambda: found.update({name: values.astype(np.int64)}),
        "booleans": lambda: found.update({name: values > 0}),
        "complex": lambda: found.update({name: values.astype(np.float64) * np.float64(1e300)}),
        "nan": lambda: values.reshape(-1).__setitem__(0, np.nan),
        "infinite": lambda: values.reshape(-1).__setitem__(-1, np.inf),
        "flat": lambda: found.update({name: values.reshape(1, -1)}),
        "longer": lambda: found.update({name: np.concatenate([values, values])}),
        "empty": lambda: found.update({name: values[:0]}),
        "scalar": lambda: found.update({name: values.reshape(-1)[0]}),
        "surplus": lambda: found.update({f"{name}_copy": values}),
        "float64": lambda: found.update({name: values.astype(np.float64)}),
        "order": lambda: found.update({name: found.pop(name)}),
    }
    kind = rng.choice(sorted(changes))
    changes[kind]()
    return kind, found


HARMLESS = ("float64", "order")
