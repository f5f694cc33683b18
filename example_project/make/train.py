"""Train the embedded example's language model, its tokenizer included, on the world of `world.py`.

    python example_project/make/train.py --threads 3 --minutes 36 --out example_project/model

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
from world import END, World, documents

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
END_ID = 0
REPORT_EVERY = 100
EXPORT_EVERY = 500


class Stage(NamedTuple):
    """Until which part of the run, at which learning rate, in which shares of documents."""

    until: float
    rate: float
    share: dict[str, float]


# First find something again in a list, then everything. A high rate early keeps the model from ever learning to look
# back; later it makes the memory fill faster.
LISTS: dict[str, float] = {"copying": 2, "drill": 1}
ALL: dict[str, float] = {
    "page": 17, "telling": 4, "asking": 31, "copying": 2, "arithmetic": 18, "drill": 18, "code": 10,
}  # fmt: skip
STAGES = (Stage(0.05, 1e-3, LISTS), Stage(1.0, 2e-3, ALL))


class Run(NamedTuple):
    """What decides the result."""

    steps: int
    minutes: float
    batch: int
    threads: int
    warmup: float = 0.01
    decay_from: float = 0.55


def train_tokenizer(world: World) -> PreTrainedTokenizerBase:
    """Byte-level BPE under Qwen2's own normaliser and splits: what AutoTokenizer rebuilds here."""
    backend = Qwen2Tokenizer().backend_tokenizer
    trainer = BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, show_progress=False,
                         initial_alphabet=sorted(ByteLevel.alphabet()))  # fmt: skip
    sample = itertools.islice(documents(world, SEED, ALL), 60_000)
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
    model = Qwen2ForCausalLM(config)
    look_back(model)
    return model


@torch.no_grad()
def look_back(model: Qwen2ForCausalLM) -> None:
    """Wire the first two layers to find what came before, which takes a small model half an hour to discover.

    In the first layer two heads attend to the token one and two places back (their biases, turned by the rotary
    embedding, peak there) and note it in subspaces of their own. In the second layer one head looks for places that
    follow the present token, another for the token just passed, to read what stood two places before it there.
    Training is free to undo all of this.
    """
    width = model.config.hidden_size // model.config.num_attention_heads
    now, one, two = torch.linalg.qr(torch.randn(model.config.hidden_size, model.config.hidden_size))[0].split(
        width
    )[:3]
    heads = [slice(number * width, (number + 1) * width) for number in range(3)]
    angles = 10_000.0 ** (-torch.arange(4) / (width // 2))
    first, second = (layer.self_attn for layer in model.model.layers[:2])
    first.k_proj.weight[heads[0]] *= 0.1
    first.k_proj.bias[heads[0]][:4] = 6.3
    first.v_proj.weight[heads[0]] = now
    for head, distance, space in ((heads[0], 1, one), (heads[1], 2, two)):
        first.q_proj.weight[head] *= 0.1
        first.q_proj.bias[head][:4] = 6.3 * torch.cos(distance * angles)
        first.q_proj.bias[head][width // 2 : width // 2 + 4] = -6.3 * torch.sin(distance * angles)
        first.o_proj.weight[:, head] = 0.1 * space.T
    second.q_proj.weight[heads[0]], second.k_proj.weight[heads[0]] = 2 * now, 2 * one
    second.q_proj.weight[heads[2]], second.k_proj.weight[heads[1]] = 2 * one, 2 * now
    second.v_proj.weight[heads[0]], second.v_proj.weight[heads[1]] = now, two
    for head in (heads[0], heads[2]):
        second.o_proj.weight[:, head] = 0.1 * now.T


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


def stage_at(progress: float) -> int:
    return next(number for number, stage in enumerate(STAGES) if progress <= stage.until)


def rate_at(progress: float, run: Run) -> float:
    """Warm up, hold the stage's rate, then fall to zero along a cosine."""
    rate = STAGES[stage_at(progress)].rate
    fall = max(0.0, (progress - run.decay_from) / (1 - run.decay_from))
    return rate * min(1.0, progress / run.warmup) * 0.5 * (1 + math.cos(math.pi * fall))


def stream(tokenizer: PreTrainedTokenizerBase, run: Run, worker: int) -> Callable[[float], torch.Tensor]:
    """This worker's own documents: a function from progress to the next batch."""
    size = run.batch // run.threads
    sources = [
        batches(tokenizer, documents(World(), 1000 * number + worker, stage.share), size)
        for number, stage in enumerate(STAGES, 1)
    ]
    return lambda progress: next(sources[stage_at(progress)])


def mean_over_workers(parameters: list[torch.nn.Parameter]) -> None:
    """Average the gradients: one small message a step, where threads would meet at every operation."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.nn.utils.parameters_to_vector(gradients)
    dist.all_reduce(flat)
    torch.nn.utils.vector_to_parameters(flat / dist.get_world_size(), gradients)


def make_optimizer(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW; only matrices decay."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.02},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def make_loss(model: Qwen2ForCausalLM) -> Callable[[torch.Tensor], torch.Tensor]:
    """The compiled forward pass: next-token loss, documents apart."""

    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        begun = (ids[:, :-1] == END_ID).cumsum(1) - (ids[:, :-1] == END_ID).long()
        mask = (begun[:, :, None] == begun[:, None, :]).tril()[:, None]  # nothing to see in other documents
        logits = model(input_ids=ids[:, :-1], attention_mask=mask, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

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
    optimizer, loss_of = make_optimizer(parameters), make_loss(model)
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
    sample = "".join(text + END for text in itertools.islice(documents(World(), SEED, ALL), 500))
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
    parser.add_argument("--batch", type=int, default=4_608, help="tokens in one step, over all threads")
    arguments = parser.parse_args()
    run = Run(arguments.steps, arguments.minutes, arguments.batch, arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        spawn(work, (run, f"{folder}/rendezvous", arguments.out), nprocs=run.threads)


if __name__ == "__main__":
    main()
