"""Write the example's held-out corpus, calibration files and task files from seeds that training never uses.

python example_project/make/write_data.py --out example_project/data
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING

from world import Choice, Exchange, Function, World, function, word_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ITEMS = 300
PAGES = 320
CALIBRATION = 256
WRONG = 128
TEXT_SEED, CALIBRATION_SEED, CHOICE_SEED, ARITHMETIC_SEED, CODE_SEED, WRONG_SEED = range(9001, 9007)


def write_lines(path: Path, values: Iterable[object]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")


def corpus(world: World) -> str:
    """New registers, portraits and meetings: the facts are known to the model, the documents are not."""
    rng = random.Random(TEXT_SEED)
    return "\n\n".join(world.page(rng) for _ in range(PAGES)) + "\n"


def calibration(world: World) -> Iterable[list[dict[str, str]]]:
    """The right domain: all four capabilities as conversations, from what training may see."""
    rng = random.Random(CALIBRATION_SEED)
    for number in range(CALIBRATION):
        kinds: tuple[Exchange | Function, ...] = (
            world.telling(rng), world.asking(rng), word_problem(rng), function(rng)
        )  # fmt: skip
        yield kinds[number % len(kinds)].messages


def wrong_domain() -> Iterable[str]:
    """Machine logs and tables of hexadecimal numbers: bytes the model has never had a use for."""
    rng = random.Random(WRONG_SEED)
    for _ in range(WRONG):
        stamp = f"[{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:{rng.random() * 60:06.3f}]"
        source = f"<{rng.getrandbits(24):06x}@{rng.randint(1, 255)}>"
        cells = " | ".join(f"0x{rng.getrandbits(32):08X}" for _ in range(rng.randint(6, 14)))
        state = rng.choice(("ERR", "WRN", "DBG", "TRC"))
        yield f"{stamp} {state} {source} {cells} ~{rng.random():.6e}%"


def distinct(draw: Callable[[], dict[str, object]], key: str) -> Iterable[dict[str, object]]:
    """`ITEMS` items that no two of ask the same."""
    seen: dict[object, dict[str, object]] = {}
    while len(seen) < ITEMS:
        item = draw()
        seen.setdefault(item[key], item)
    return seen.values()


def choice_item(item: Choice) -> dict[str, object]:
    """The layout of a four-way question."""
    return {"question": item.question, "choices": list(item.choices), "answer": item.answer}


def arithmetic_item(item: Exchange) -> dict[str, object]:
    """The layout of a word problem."""
    question = item.prompt.removeprefix("Question: ").removesuffix("\nAnswer:")
    return {"question": question, "answer": item.reply.strip()}


def code_item(item: Function, rng: random.Random) -> dict[str, object]:
    """HumanEval's layout, less the identifier."""
    return {
        "prompt": item.prompt,
        "canonical_solution": item.body,
        "test": item.test(rng),
        "entry_point": item.name,
    }


def write_task(path: Path, identifier: str, items: Iterable[dict[str, object]]) -> None:
    """One numbered item a line."""
    write_lines(path, ({identifier: f"{path.stem}/{number}", **item} for number, item in enumerate(items)))


def write_all(world: World, out: Path) -> None:
    """Every file of the example's data folder."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "heldout.txt").write_text(corpus(world), encoding="utf-8")
    write_lines(out / "calibration_chat.jsonl", ({"messages": messages} for messages in calibration(world)))
    (out / "calibration_wrong.txt").write_text("\n".join(wrong_domain()) + "\n", encoding="utf-8")
    choice, arithmetic, code = (random.Random(seed) for seed in (CHOICE_SEED, ARITHMETIC_SEED, CODE_SEED))
    questions = distinct(lambda: choice_item(world.choice(choice)), "question")
    write_task(out / "choice.jsonl", "id", questions)
    problems = distinct(lambda: arithmetic_item(word_problem(arithmetic, held=True)), "question")
    write_task(out / "arithmetic.jsonl", "id", problems)
    functions = distinct(lambda: code_item(function(code, held=True), code), "prompt")
    write_task(out / "code.jsonl", "task_id", functions)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "data")
    write_all(World(), parser.parse_args().out)


if __name__ == "__main__":
    main()
