"""A checkpoint against its baseline: the same network, tokenizer, template, generation; fewer bytes. Pure."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from pytest_quantgate.checkpoint.folder import locate
from pytest_quantgate.errors import CheckpointError
from pytest_quantgate.files import MalformedError, opened, read_all
from pytest_quantgate.lint.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_quantgate.lint.folder import Folder
    from pytest_quantgate.lint.packing import Packed

__all__ = ["check_baseline"]

_COPY = "copy it from the baseline"
_NETWORK = (
    *("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "vocab_size", "hidden_act", "rms_norm_eps", "tie_word_embeddings"),
    *("sliding_window", "num_experts", "num_experts_per_tok", "partial_rotary_factor"),
)
_STOPS = ("eos_token_id", "bos_token_id", "pad_token_id", "do_sample", "temperature", "top_p", "top_k")
_SUPPORT = (
    *("generation_config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer.model", "spiece.model"),
)
_TOKENIZING = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_FILES = ("tokenizer.model", "spiece.model", "vocab.json", "merges.txt", "vocab.txt", "tekken.json")
_MOST = 96 << 20


def check_baseline(folder: Folder, baseline: Folder, packed: Mapping[str, Packed]) -> Iterator[Finding]:
    """Compare a checkpoint with its baseline."""
    for found in baseline.findings:
        if found.about.severity == "error":
            yield Finding(
                "QG212", "", f"the baseline: {found.file}: {found.sentence()}", "give a sound baseline"
            )
            break
    yield from _network(folder.text_config, baseline.text_config)
    yield from _tensors(folder, baseline, packed)
    yield from _tokenizer(folder, baseline)
    yield from _template(folder, baseline)
    yield from _generation(folder, baseline)
    if folder.section and folder.weights.complete and baseline.weights.complete:
        ours, theirs = sum(folder.weights.files.values()), sum(baseline.weights.files.values())
        if ours >= theirs:
            text = f"has {ours} bytes of weights (the baseline has {theirs})"
            yield Finding("QG502", "", text, "check that its modules are packed")


def _network(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Finding]:
    one, two = _network_of(ours), _network_of(theirs)
    for name in one:
        # a field that one of them leaves to the library's default cannot be compared
        if one[name] is not None and two[name] is not None and one[name] != two[name]:
            text = f"says {name} {ascii(one[name])[:60]} (the baseline says {ascii(two[name])[:60]})"
            yield Finding(
                "QG210", "config.json", text, "take config.json from the baseline and add the quantization"
            )


def _network_of(config: Mapping[str, Any]) -> dict[str, Any]:
    rope = config.get("rope_parameters")
    theta = rope.get("rope_theta") if isinstance(rope, dict) else config.get("rope_theta")
    return {name: config.get(name) for name in _NETWORK} | {"rope_theta": theta}


def _tensors(folder: Folder, baseline: Folder, packed: Mapping[str, Packed]) -> Iterator[Finding]:
    if not (folder.weights.complete and baseline.weights.complete):
        return
    advice = "quantize that baseline again, or give the one that it was made of"
    tied = folder.text_config.get("tie_word_embeddings") is True
    for name, module in baseline.modules.items():
        ours, theirs = folder.modules.get(name), module.parts.get("weight")
        if ours is None:
            if not (tied and name == "lm_head"):
                yield Finding("QG211", "", "is missing (the baseline has it)", advice, name)
        elif theirs is not None and not module.packing:
            found = packed.get(name)
            mine = ours.parts.get("weight")
            shape = (found.outs, found.ins) if found else mine.shape if mine else ()
            if len(shape) == len(theirs.shape) and any(
                s is not None and s != t for s, t in zip(shape, theirs.shape, strict=True)
            ):
                text = f"is {_shown(shape)} (in the baseline {_shown(theirs.shape)})"
                yield Finding("QG211", ours.file, text, advice, f"{name}.weight")
    for name in folder.modules.keys() - baseline.modules.keys():
        if name != "lm_head":
            yield Finding("QG213", folder.modules[name].file, "is not in the baseline", "remove it", name)


def _shown(shape: tuple[int | None, ...]) -> str:
    return "x".join(map(str, shape[:4]))


def _tokenizer(folder: Folder, baseline: Folder) -> Iterator[Finding]:
    for name in _SUPPORT:
        # a tokenizer.json holds what the file of sentencepiece does
        if name in baseline.sizes and name not in folder.sizes:
            if name.endswith(".model") and "tokenizer.json" in folder.sizes:
                continue
            yield Finding("QG408", "", f"has no {name}, which the baseline has", _COPY)
    both = [name for name in ("tokenizer.json", *_FILES) if name in folder.sizes and name in baseline.sizes]
    if "tokenizer.json" in both:
        if _digest(folder, "tokenizer.json") != _digest(baseline, "tokenizer.json"):
            yield from _ids(folder.ids, baseline.ids)
            yield from _tokenizer_parts(folder.tokenizer, baseline.tokenizer)
        return
    for name in both:
        if _digest(folder, name) != _digest(baseline, name):
            yield Finding("QG407", name, "is another file than the baseline's", _COPY)


def _ids(ours: Mapping[str, int], theirs: Mapping[str, int]) -> Iterator[Finding]:
    if ours != theirs:
        odd = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
        one, two = (ids.get(odd[0], "not there") for ids in (ours, theirs))
        text = f"has {len(odd)} tokens with another id: {odd[0][:40]!a} is {one} (in the baseline {two})"
        yield Finding("QG407", "tokenizer.json", text, _COPY)


def _tokenizer_parts(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare what else decides ids; how a library writes the file may differ."""
    if _merges(ours) != _merges(theirs):
        yield Finding("QG407", "tokenizer.json", "merges tokens differently than the baseline's", _COPY)
    for name in _TOKENIZING:
        if _canonical(ours.get(name)) != _canonical(theirs.get(name)):
            yield Finding("QG407", "tokenizer.json", f"has another {name} than the baseline's", _COPY)


def _merges(tokenizer: Mapping[str, Any]) -> list[str]:
    model = tokenizer.get("model")
    merges = model.get("merges") if isinstance(model, dict) else None
    # written as "a b" before tokenizers 0.20, as ["a", "b"] since
    return [" ".join(map(str, pair)) if isinstance(pair, list) else str(pair) for pair in merges or []]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _digest(folder: Folder, name: str) -> str | None:
    try:
        with opened(locate(folder.path, name)) as (descriptor, status):
            return sha256(read_all(descriptor, min(status.st_size, _MOST))).hexdigest()
    except (CheckpointError, MalformedError, OSError):
        return None


def _template(folder: Folder, baseline: Folder) -> Iterator[Finding]:
    ours, theirs = folder.template, baseline.template
    if theirs is None or ours == theirs:
        return
    if ours is None:
        yield Finding("QG406", "", "has no chat template, and the baseline has one", _COPY)
        return
    place = next(
        (at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
        min(len(ours), len(theirs)),
    )
    line = theirs.count("\n", 0, place) + 1
    blank = ", only in blanks" if ours.split() == theirs.split() else ""
    text = f"has another chat template than the baseline, from its line {line} on{blank}"
    yield Finding("QG405", "", text, _COPY)


def _generation(folder: Folder, baseline: Folder) -> Iterator[Finding]:
    ours, theirs = (where.documents.get("generation_config.json") for where in (folder, baseline))
    if ours is None or theirs is None:
        return
    for name in _STOPS:
        if ours.get(name) != theirs.get(name):
            text = (
                f"says {name} {ascii(ours.get(name))[:40]} (the baseline says {ascii(theirs.get(name))[:40]})"
            )
            yield Finding("QG412", "generation_config.json", text, _COPY)
