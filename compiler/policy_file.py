"""Policies as files: an .npz archive of the arrays, and one JSON text of everything else."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from compiler.errors import ModelError
from compiler.policy import Calibrated, Policy, Rule

FORMAT = "sansuan policy 1"
_ARRAYS = ("smoothing", "codes", "correction")


def save_policy(policy: Policy, path: str | os.PathLike[str]) -> None:
    """Write a policy to `path`, which gets no other ending."""
    arrays: dict[str, np.ndarray] = {}
    calibrated = []
    for number, (product, how) in enumerate(policy.calibrated.items()):
        calibrated.append({"product": product, "low": how.low, "high": how.high})
        for name in _ARRAYS:
            array = getattr(how, name)
            if array is not None:
                arrays[f"{name}{number}"] = array
    text = {
        "format": FORMAT,
        "precision": policy.precision,
        "otherwise": policy.otherwise,
        "group": policy.group,
        "rules": [asdict(rule) for rule in policy.rules],
        "errors": dict(policy.errors),
        "calibrated": calibrated,
    }
    with Path(path).open("wb") as file:
        np.savez_compressed(file, policy=np.array(json.dumps(text)), **arrays)  # type: ignore[arg-type]


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """The policy in a file that save_policy wrote. Raises ModelError where it is none, SansuanError where what it says
    is none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            text = json.loads(str(file["policy"]))
            arrays = {name: file[name] for name in file.files if name != "policy"}
        if text["format"] != FORMAT:
            raise ModelError(f"{os.fspath(path)}: its format is {text['format']!r}, expected {FORMAT!r}; save it again")
        return _policy(text, arrays)
    except (ValueError, TypeError, KeyError, EOFError) as error:
        raise ModelError(f"{os.fspath(path)}: no policy file; write one with policy.save(path)") from error


def _policy(text: dict[str, Any], arrays: dict[str, np.ndarray]) -> Policy:
    calibrated = {
        item["product"]: Calibrated(
            item["low"], item["high"], **{name: arrays.get(f"{name}{number}") for name in _ARRAYS}
        )
        for number, item in enumerate(text["calibrated"])
    }
    rules = tuple(Rule(**rule) for rule in text["rules"])
    return Policy(text["precision"], rules, calibrated, text["errors"], text["otherwise"], text["group"])
