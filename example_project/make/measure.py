"""Print what the example's model can do, in full precision and after plain round-to-nearest, as a table.

    python example_project/make/measure.py --threads 4

Round-to-nearest is the simplest damage there is: it needs no quantization library, so these figures say
whether the model itself reacts to fewer bits, whatever a better method then saves.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from world import LETTERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
Item = dict[str, Any]


def read_items(name: str) -> list[Item]:
    path = ROOT / "data" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def round_to_nearest(model: PreTrainedModel, bits: int, group: int) -> None:
    """Symmetric rounding of every linear layer of the blocks, as gptqmodel's grid has it, in place."""
    top = 2 ** (bits - 1)
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and ".layers." in name:
            groups = layer.weight.data.view(-1, group)
            scale = (groups.abs().amax(1, keepdim=True) / (top - 0.5)).clamp_min(1e-9)
            layer.weight.data = ((groups / scale).round().clamp(-top, top - 1) * scale).view_as(layer.weight)


def perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, window: int = 512) -> float:
    text = (ROOT / "data" / "heldout.txt").read_text(encoding="utf-8")
    ids = torch.tensor(tokenizer.encode(text))
    rows = ids[: len(ids) // window * window].view(-1, window)
    total = 0.0
    for part in rows.split(16):
        logits = model(part).logits[:, :-1].flatten(0, 1)
        total += torch.nn.functional.cross_entropy(logits, part[:, 1:].flatten(), reduction="sum").item()
    return math.exp(total / (rows.shape[0] * (window - 1)))


def padded(tokenizer: PreTrainedTokenizerBase, prompts: list[str], size: int = 75) -> Iterator[Any]:
    tokenizer.padding_side = "left"
    for start in range(0, len(prompts), size):
        yield tokenizer(prompts[start : start + size], return_tensors="pt", padding=True)


def choice_score(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float:
    """The share of questions whose right choice is the most probable continuation."""
    items = read_items("choice")
    prompts = [f"Question: {item['question']}\nAnswer:" for item in items for _ in item["choices"]]
    answers = [f" {choice}" for item in items for choice in item["choices"]]
    sums = torch.cat([*continuations(model, tokenizer, prompts, answers)]).view(len(items), -1)
    picks = sums.argmax(1).tolist()
    return sum(LETTERS[pick] == item["answer"] for pick, item in zip(picks, items, strict=True)) / len(items)


def continuations(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], answers: list[str]
) -> Iterator[torch.Tensor]:
    """Log-probability of each answer after its prompt."""
    for start in range(0, len(prompts), 100):
        rows = [
            [tokenizer.encode(text) for text in pair]
            for pair in zip(prompts[start : start + 100], answers[start : start + 100], strict=True)
        ]
        batch = tokenizer.pad(
            {"input_ids": [prompt + answer for prompt, answer in rows]},
            padding_side="right",
            return_tensors="pt",
        )
        scores = model(**batch).logits[:, :-1].log_softmax(-1)
        there = scores.gather(2, batch["input_ids"][:, 1:, None])[..., 0]
        yield torch.stack(
            [
                row[len(prompt) - 1 : len(prompt) - 1 + len(answer)].sum()
                for row, (prompt, answer) in zip(there, rows, strict=True)
            ]
        )


def completions(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], new: int
) -> list[str]:
    texts: list[str] = []
    for batch in padded(tokenizer, prompts):
        out = cast("Any", model).generate(**batch, max_new_tokens=new, do_sample=False)
        texts += tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def arithmetic_score(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float:
    items = read_items("arithmetic")
    texts = completions(model, tokenizer, [f"Question: {item['question']}\nAnswer:" for item in items], 72)
    return sum(final(text) == final(item["answer"]) for text, item in zip(texts, items, strict=True)) / len(
        items
    )


def final(text: str) -> str:
    """What follows `####`."""
    return text.partition("####")[2].strip()


def passes(item: Item, completion: str) -> bool:
    """Run the item's own test on a completion of our own model, which has seen only arithmetic and lists."""
    scope: dict[str, Any] = {}
    try:
        exec(item["prompt"] + completion.partition("\ndef")[0] + "\n" + item["test"], scope)
        scope["check"](scope[item["entry_point"]])
    except Exception:  # noqa: BLE001 (whatever a wrong completion raises, it is wrong)
        return False
    return True


def code_score(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float:
    items = read_items("code")
    texts = completions(model, tokenizer, [item["prompt"] for item in items], 80)
    return sum(passes(item, text) for item, text in zip(items, texts, strict=True)) / len(items)


SCORES: dict[str, Callable[[PreTrainedModel, PreTrainedTokenizerBase], float]] = {
    "perplexity": perplexity, "choice": choice_score, "arithmetic": arithmetic_score, "code": code_score,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--model", type=Path, default=ROOT / "model")
    parser.add_argument("--bits", type=int, nargs="*", default=(8, 4, 3, 2))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    recipes = [None, *((bits, group) for bits in arguments.bits for group in (128, 32))]
    print("| weights | " + " | ".join(SCORES) + " |\n" + "| --- " * (len(SCORES) + 1) + "|")
    for recipe in recipes:
        model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
        if recipe:
            round_to_nearest(model, *recipe)
        with torch.inference_mode():
            figures = [f"{score(model, tokenizer):.3f}" for score in SCORES.values()]
        label = "{} bits, groups of {}".format(*recipe) if recipe else "full precision"
        print(f"| {label} | " + " | ".join(figures) + " |", flush=True)


if __name__ == "__main__":
    main()
