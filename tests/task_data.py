"""Small tasks of our own in the layouts that the field uses: MMLU, C-Eval, GSM8K, HumanEval, and a user's files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

LETTERS = "ABCD"
WORDS = ("stone", "river", "cloud", "ember", "glass", "moss", "iron", "salt")


def exam_rows(count: int, seed: int = 0) -> list[list[str]]:
    """Return questions with four choices and the letter of the right one."""
    rows = []
    for number in range(count):
        place = number + seed
        choices = [WORDS[(place + step) % len(WORDS)] for step in range(4)]
        rows.append([f"Which word has number {place}?", *choices, LETTERS[place % 4]])
    return rows


def write_mmlu(folder: Path, subjects: tuple[str, ...] = ("abstract_algebra",), count: int = 8) -> Path:
    """Write the original CSV files, which have no header."""
    for number, subject in enumerate(subjects):
        for split, rows in (("dev", exam_rows(5, 50 + number)), ("test", exam_rows(count, number))):
            write_csv(folder / split / f"{subject}_{split}.csv", rows)
    return folder


def write_ceval(folder: Path, subjects: tuple[str, ...] = ("logic",), count: int = 8) -> Path:
    """Write the original CSV files: a header, an id, and explanations in the dev split."""
    for number, subject in enumerate(subjects):
        header = ["id", "question", *LETTERS, "answer"]
        dev = [[str(i), *row, "because"] for i, row in enumerate(exam_rows(5, 60 + number))]
        val = [[str(i), *row] for i, row in enumerate(exam_rows(count, number))]
        write_csv(folder / "dev" / f"{subject}_dev.csv", [[*header, "explanation"], *dev])
        write_csv(folder / "val" / f"{subject}_val.csv", [header, *val])
    return folder


def write_csv(file: Path, rows: list[list[str]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows(rows)


def write_lines(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Write JSON lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def sums(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return worked questions."""
    return [
        {
            "question": f"What is {n} and {n + 1} together?",
            "answer": f"{n} + {n + 1} = {2 * n + 1}\n#### {2 * n + 1}",
        }
        for n in range(seed, seed + count)
    ]


def programs(count: int) -> list[dict[str, Any]]:
    """Return functions to write, as HumanEval's."""
    return [
        {
            "task_id": f"Own/{n}",
            "prompt": f'def add_{n}(x):\n    """Return x plus {n}."""\n',
            "canonical_solution": f"    return x + {n}\n",
            "entry_point": f"add_{n}",
            "test": f"def check(candidate):\n    assert candidate(1) == {n + 1}\n    assert candidate(-{n}) == 0\n",
        }
        for n in range(count)
    ]


def write(study: Any) -> None:
    """Give a study data and settings for every native task."""
    root = study.path
    write_mmlu(root / "mmlu")
    write_lines(root / "gsm8k" / "test.jsonl", sums(4))
    write_lines(root / "gsm8k" / "train.jsonl", sums(8, seed=100))
    write_lines(root / "humaneval.jsonl", programs(3))
    study.tables["mmlu"] = 'data = "mmlu"\nsubjects = ["abstract_algebra"]\nshots = 2'
    study.tables["gsm8k"] = 'data = "gsm8k"\nnew_tokens = 16\nshots = 2'
    study.tables["humaneval"] = 'data = "humaneval.jsonl"\nnew_tokens = 16'
