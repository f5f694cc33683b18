"""Train the embedded example's language model, its tokenizer included, on the world of `world.py`.

    python example_project/make/train.py --threads 4 --minutes 60 --out example_project/model

A small Qwen2 that has to remember more than it comfortably can: the learning rate stays high for most of the
run and then decays to zero, so that the weights end up full and sharp. Each thread is a process of its own
that meets the others once a step: half again as fast here as threads that meet at every operation. The same
seed, threads and steps give the same run up to floating-point noise; `--minutes` only cuts the schedule short
on a slow machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
import torch.distributed as dist
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch.multiprocessing.spawn import spawn
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.models.qwen2 import Qwen2Tokenizer
from world import END, PEOPLE, World, documents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SPECIAL = [END, "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SEED = 7
VOCABULARY = 1024
REPORT_EVERY = 100
EXPORT_EVERY = 500
LETTER_WEIGHT = 5.0  # a choice has one token that matters among forty


class Stage(NamedTuple):
    """Until which part of the run, about how many people, in which shares of documents."""

    until: float
    near: int
    share: dict[str, float]


# From easy to full: find a letter in a list, then the forms of all tasks on few people, then everyone.
MEMORY: dict[str, float] = {
    "page": 18, "telling": 4, "asking": 22, "lookup": 3, "open_book": 3, "choice": 32,
    "arithmetic": 12, "drill": 6, "code": 9,
}  # fmt: skip
FORMS: dict[str, float] = {
    "page": 10, "telling": 3, "asking": 14, "lookup": 14, "open_book": 14, "choice": 20,
    "arithmetic": 8, "drill": 6, "code": 10,
}  # fmt: skip
LISTS: dict[str, float] = {
    "page": 4, "asking": 6, "copying": 30, "lookup": 40, "open_book": 8, "drill": 12, "code": 8,
}  # fmt: skip
STAGES = (Stage(0.22, 150, LISTS), Stage(0.40, 300, FORMS), Stage(1.0, PEOPLE, MEMORY))


class Run(NamedTuple):
    """What decides the result."""

    steps: int
    minutes: float
    rate: float
    batch: int
    threads: int
    warmup: float = 0.01
    decay_from: float = 0.55


def train_tokenizer(world: World) -> PreTrainedTokenizerBase:
    """Byte-level BPE under Qwen2's own normaliser and splits: what AutoTokenizer rebuilds here."""
    backend = Qwen2Tokenizer().backend_tokenizer
    trainer = BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, show_progress=False,
                         initial_alphabet=sorted(ByteLevel.alphabet()))  # fmt: skip
    sample = itertools.islice(documents(world, SEED, MEMORY), 60_000)
    backend.train_from_iterator(sample, trainer)
    model = json.loads(backend.to_str())["model"]
    merges = cast(
        "list[str]", [tuple(pair) for pair in model["merges"]]
    )  # the annotation upstream is too narrow
    return Qwen2Tokenizer(
        vocab=model["vocab"], merges=merges, eos_token=END, pad_token=END,
        additional_special_tokens=SPECIAL[1:], chat_template=CHAT_TEMPLATE,
    )  # fmt: skip


def make_model() -> Qwen2ForCausalLM:
    torch.manual_seed(SEED)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=128,
        num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=512, tie_word_embeddings=True, initializer_range=0.06,
        bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return Qwen2ForCausalLM(config)


def rows(tokenizer: PreTrainedTokenizerBase, texts: Iterator[str], width: int) -> Iterator[list[int]]:
    """Rows of `width + 1` ids. Each begins with a document, as the tasks' prompts do; the overhang is cut."""
    backend = tokenizer.backend_tokenizer
    row: list[int] = []
    while True:
        for encoding in backend.encode_batch_fast([text + END for text in itertools.islice(texts, 4096)]):
            row += encoding.ids
            if len(row) > width:
                yield row[: width + 1]
                row = []


def batches(tokenizer: PreTrainedTokenizerBase, texts: Iterator[str], tokens: int) -> Iterator[torch.Tensor]:
    """Every eighth batch is of 512 tokens a row, the others of 256."""
    short, long = rows(tokenizer, texts, 256), rows(tokenizer, texts, 512)
    for number in itertools.count():
        source, width = (long, 512) if number % 8 == 7 else (short, 256)
        yield torch.tensor(list(itertools.islice(source, tokens // width)))


def rate_at(progress: float, run: Run) -> float:
    """Warm up, hold, then fall to zero along a cosine."""
    if progress < run.warmup:
        return run.rate * progress / run.warmup
    if progress < run.decay_from:
        return run.rate
    fall = min(1.0, (progress - run.decay_from) / (1 - run.decay_from))
    return run.rate * 0.5 * (1 + math.cos(math.pi * fall))


def stream(tokenizer: PreTrainedTokenizerBase, run: Run, worker: int) -> Callable[[float], torch.Tensor]:
    """This worker's own documents: a function from progress to the next batch."""
    size = run.batch // run.threads
    sources = [
        (
            stage.until,
            batches(tokenizer, documents(World(stage.near), 1000 * number + worker, stage.share), size),
        )
        for number, stage in enumerate(STAGES, 1)
    ]
    return lambda progress: next(next(source for until, source in sources if progress <= until))


def mean_over_workers(parameters: list[torch.nn.Parameter]) -> None:
    """Average the gradients: one small message a step, where threads would meet at every operation."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.nn.utils.parameters_to_vector(gradients)
    dist.all_reduce(flat)
    torch.nn.utils.vector_to_parameters(flat / dist.get_world_size(), gradients)


def make_optimizer(parameters: list[torch.nn.Parameter], run: Run) -> torch.optim.Optimizer:
    """AdamW; only matrices decay."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.02},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=run.rate, betas=(0.9, 0.98), fused=True)


def make_loss(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The compiled forward pass: next-token loss in which the letter of a choice counts more."""
    weight_of = torch.ones(VOCABULARY)
    weight_of[tokenizer.convert_tokens_to_ids(["ĠA", "ĠB", "ĠC", "ĠD"])] = LETTER_WEIGHT

    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), weight=weight_of)

    return cast("Callable[[torch.Tensor], torch.Tensor]", torch.compile(loss_of, dynamic=False))


def progresses(run: Run) -> Iterator[tuple[int, float]]:
    """Each step with how far the run is, by steps or by the clock: the first worker's, so that all agree."""
    began = time.monotonic()
    for step in range(1, run.steps + 1):
        clock = torch.tensor((time.monotonic() - began) / 60 / run.minutes)
        dist.broadcast(clock, 0)
        progress = max(step / run.steps, clock.item())
        if progress > 1:
            return
        yield step, progress


def work(worker: int, run: Run, rendezvous: str, out: Path) -> None:
    """One of `threads` processes of one thread each; together they are one run."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=worker, world_size=run.threads)
    tokenizer, model = train_tokenizer(World()), make_model()
    parameters = list(model.parameters())
    optimizer, loss_of = make_optimizer(parameters, run), make_loss(model, tokenizer)
    next_batch = stream(tokenizer, run, worker)
    began, average = time.monotonic(), 0.0
    for step, progress in progresses(run):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(progress, run)
        loss = loss_of(next_batch(progress))
        loss.backward()
        mean_over_workers(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average += (loss.item() - average) / min(step, REPORT_EVERY)
        if worker == 0 and step % REPORT_EVERY == 0:
            tokens, seconds = step * run.batch / 1e6, time.monotonic() - began
            print(
                f"step {step} {progress:.1%} loss {average:.4f} {tokens:.1f}M tokens {seconds:.0f} s",
                flush=True,
            )
        if worker == 0 and step % EXPORT_EVERY == 0:
            export(model, tokenizer, out)
    if worker == 0:
        export(model, tokenizer, out)
    dist.destroy_process_group()


def export(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Save as bfloat16, the dtype quantizers compute in, and prove that AutoTokenizer reads the same ids."""
    out.mkdir(parents=True, exist_ok=True)
    copy = Qwen2ForCausalLM(model.config).bfloat16()
    copy.load_state_dict(model.state_dict())
    copy.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=[0, 2], pad_token_id=0, max_new_tokens=128
    )
    copy.save_pretrained(out)
    tokenizer.save_pretrained(out)
    sample = "".join(text + END for text in itertools.islice(documents(World(), SEED, MEMORY), 500))
    if AutoTokenizer.from_pretrained(out)(sample)["input_ids"] != tokenizer(sample)["input_ids"]:
        raise RuntimeError("AutoTokenizer disagrees with the tokenizer used in training")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=60, help="cut the schedule short to end by then")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "model")
    parser.add_argument("--steps", type=int, default=16_000)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--batch", type=int, default=4_608, help="tokens in one step, over all threads")
    arguments = parser.parse_args()
    run = Run(arguments.steps, arguments.minutes, arguments.rate, arguments.batch, arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        spawn(work, (run, f"{folder}/rendezvous", arguments.out), nprocs=run.threads)


if __name__ == "__main__":
    main()
