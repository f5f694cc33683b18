"""Checkpoints that break one rule of lint each, and what is to be said about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import lint_models as models
from lint_models import BITS, GROUP, HIDDEN, INDEX, LAYERS, SECTIONS, VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Callable

Q0 = "model.layers.0.self_attn.q_proj"
SECOND = "model-00002-of-00003.safetensors"


def section(kind: str = "gptq", **fields: Any) -> dict[str, Any]:
    """Return a quantization section with fields replaced, or left out (None)."""
    return {name: value for name, value in (SECTIONS[kind] | fields).items() if value is not None}


def channel() -> dict[str, Any]:
    """Return a section of compressed-tensors with one scale per row."""
    return section(
        "compressed", config_groups={"group_0": {"weights": {"num_bits": BITS, "strategy": "channel"}}}
    )


def changed(kind: str, **parts: Any) -> models.Tensors:
    """Return tensors with those of the first query projection replaced, or left out (None)."""
    made: dict[str, Any] = models.tensors(kind) | {f"{Q0}.{part}": value for part, value in parts.items()}
    return {name: value for name, value in made.items() if value is not None}


def without(kind: str, beginning: str) -> models.Tensors:
    return {name: value for name, value in models.tensors(kind).items() if not name.startswith(beginning)}


def dense(kind: str, name: str, shape: tuple[int, ...]) -> models.Tensors:
    return without(kind, f"{name}.") | {f"{name}.weight": ("BF16", shape)}


def wrote(kind: str = "", **options: Any) -> Callable[[Path], None]:
    return lambda folder: models.write(folder, kind, **options) and None


def then(kind: str, change: Callable[[Path], Any], **options: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        change(models.write(folder, kind, **options))

    return write


def edit_index(change: Callable[[dict[str, Any]], Any], shards: int = 3) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        change(index)
        (folder / INDEX).write_text(json.dumps(index))

    return then("", edit, shards=shards)


def move(index: dict[str, Any]) -> None:
    index["weight_map"]["lm_head.weight"] = SECOND


def rename_shards(folder: Path) -> None:
    for number in (1, 2, 3):
        (folder / f"model-0000{number}-of-00003.safetensors").rename(folder / f"part{number}.safetensors")
    text = (folder / INDEX).read_text()
    for number in (1, 2, 3):
        text = text.replace(f"model-0000{number}-of-00003.safetensors", f"part{number}.safetensors")
    (folder / INDEX).write_text(text)


def cut(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(10_000)


def twice(folder: Path) -> None:
    models.write_weights(folder / SECOND, models.tensors())


class Case(NamedTuple):
    """A rule, a checkpoint that breaks it, and a piece of what is said."""

    rule: str
    write: Callable[[Path], None]
    said: str
    baseline: Callable[[Path], None] | None = None


PLAIN = wrote("")
NO_TOKENIZER = {"tokenizer.json": None}
MIXED = section("gptq", dynamic={r"+:.*q_proj": {"bits": 8}})
EIGHT = models.PACKINGS["gptq"](HIDDEN, HIDDEN, 8, GROUP)
CASES = [
    Case("QG101", wrote("gptq", quantization_config=section(bits=13)), '"bits" is 13'),
    Case("QG101", wrote("gptq", quantization_config=section(quant_method="magic")), "'magic'"),
    Case("QG101", wrote("gptq", quantization_config="gptq"), "no JSON object"),
    Case("QG102", wrote("gptq", quantization_config=section(group_size=None)), "does not say group_size"),
    Case("QG102", wrote("", quantization_config={"bits": 4}), "without quant_method"),
    Case("QG102", wrote("compressed", quantization_config=section("compressed", config_groups=None)), "config_groups"),
    Case("QG103", wrote("gptq", quantization_config=section(sym=None)), "does not say sym"),
    Case("QG103", wrote("awq", quantization_config=section("awq", zero_point=None)), "does not say zero_point"),
    Case("QG104", wrote("gptq", files={"quantize_config.json": {"bits": 8, "desc_act": True}}), "says bits 8"),
    Case("QG105", wrote("", made=models.tensors("gptq")), "no file says so"),
    Case(
        "QG105",
        wrote("", made=models.tensors("gptq"), files={"quantize_config.json": SECTIONS["gptq"]}),
        "only quantize_config.json says so",
    ),
    Case("QG107", wrote("gptq", made=models.tensors()), "is it really quantized?"),
    Case("QG107", wrote("gptq", made=models.tensors("bnb8")), "packed as bnb8"),
    Case("QG107", wrote("awq", made=models.tensors("gptq")), "has a g_idx"),
    Case("QG108", wrote("gptq", made=dense("gptq", Q0, (HIDDEN, HIDDEN))), Q0),
    Case(
        "QG109",
        wrote("gptq", made={**{n: v for n, v in models.tensors("gptq").items() if "q_proj" not in n}, **{
            f"model.layers.{layer}.self_attn.q_proj.weight": ("BF16", (HIDDEN, HIDDEN)) for layer in range(LAYERS)
        }}),
        "dense in every layer",
    ),
    Case("QG110", wrote("fp8", quantization_config=section("fp8", modules_to_not_convert=["q_proj"])), "excludes"),
    Case("QG110", wrote("compressed", quantization_config=section("compressed", ignore=["re:.*q_proj"])), "excludes"),
    Case("QG110", wrote("gptq", quantization_config=section(dynamic={r"-:.*q_proj": {}})), "excludes"),
    Case(
        "QG111",
        wrote("gptq", made=without("gptq", "lm_head") | {
            f"lm_head.{part}": value for part, value in models.PACKINGS["gptq"](VOCABULARY, HIDDEN, 4, 64).items()
        }),
        "lm_head is quantized",
    ),
    Case("QG112", wrote("gptq", made=changed("gptq", qzeros=("I32", (3, 32)))), "has the shape [3, 32] (expected 4x32)"),
    Case("QG112", wrote("gptq", made=changed("gptq", qweight=("I32", (33, HIDDEN)))), "implies 4.125 bits"),
    Case("QG112", wrote("awq", made=changed("awq", qzeros=("I32", (4, 31)))), "(expected 4x32)"),
    Case("QG112", wrote("fp8", made=changed("fp8", weight_scale_inv=("F32", (1, 2)))), "(expected 2x2)"),
    Case("QG112", wrote("bnb8", made=changed("bnb8", SCB=("F32", (3,)))), "(expected 256)"),
    Case("QG112", wrote("compressed", made=changed("compressed", weight_scale=("BF16", (3, 4)))), "256xany"),
    Case("QG112", wrote("int8", made=changed("int8", weight_scale=("BF16", (3,)))), "expected one value"),
    Case("QG113", wrote("gptq", made=changed("gptq", scales=None)), f"{Q0}.scales is missing"),
    Case("QG113", wrote("gptq", made=changed("gptq", g_idx=None)), f"{Q0}.g_idx is missing"),
    Case("QG113", wrote("fp8", made=changed("fp8", weight_scale_inv=None)), "weight_scale is missing"),
    Case("QG113", wrote("bnb4", made=changed("bnb4", **{"weight.absmax": None})), "weight.absmax is missing"),
    Case("QG113", wrote("int8", made=changed("int8", weight_scale=None)), "weight_scale is missing"),
    Case("QG113", wrote("compressed", made=changed("compressed", weight_shape=None)), "weight_shape is missing"),
    Case("QG113", wrote("compressed", made=changed("compressed", weight_packed=None)), "weight_packed is missing"),
    Case("QG113", wrote("torchao", made=changed("torchao", _weight_scale=None)), "_weight_scale is missing"),
    Case("QG113", wrote("bnb8", made=changed("bnb8", SCB=None)), "weight_scale is missing"),
    Case("QG113", wrote("bnb4", made=changed("bnb4", **{"weight.quant_state.bitsandbytes__nf4": None})), "quant_state"),
    Case("QG112", wrote("gptq", made=changed("gptq", qweight=("I32", (8192,)))), "has the shape [8192] (expected anyxany)"),
    Case("QG112", wrote("gptq", made=changed("gptq", g_idx=("I32", (1, 256)))), "has the shape [1, 256] (expected any)"),
    Case("QG112", wrote("fp8", made=changed("fp8", weight=("F8_E4M3", (8, 8, 4)))), "has the shape [8, 8, 4]"),
    Case("QG112", wrote("compressed", made=changed("compressed", weight_packed=("I32", (HIDDEN, 33)))), "4.125 bits"),
    Case("QG202", wrote("nvfp4", made=changed("nvfp4", weight_packed=("U8", (HIDDEN, 64)))), "is 256x128"),
    Case("QG114", wrote("gptq", made=changed("gptq", qweight=("F32", (32, HIDDEN)))), "is F32"),
    Case("QG114", wrote("compressed", made=changed("compressed", weight_packed=("I64", (HIDDEN, 32)))), "is I64"),
    Case("QG115", wrote("gptq", quantization_config=section(bits=8)), "implies 4 bits (the configuration says 8)"),
    Case("QG115", wrote("awq", quantization_config=section("awq", bits=8)), "implies 4 bits"),
    Case("QG115", wrote("bnb8", quantization_config=section("bnb4")), "implies 8 bits"),
    Case("QG115", wrote("bnb4", quantization_config=section("bnb4", bnb_4bit_quant_type="fp4")), "is nf4"),
    Case("QG116", wrote("gptq", quantization_config=section(group_size=128)), "has 4 groups for 256 inputs (expected 2"),
    Case("QG116", wrote("awq", quantization_config=section("awq", group_size=32)), "(expected 8"),
    Case("QG116", wrote("compressed", quantization_config=channel()), "(expected 1: group_size is -1)"),
    Case("QG116", wrote("gptq", quantization_config=section(group_size=-1)), "(expected 1: group_size is -1)"),
    Case(
        "QG117",
        wrote("gptq", made=models.tensors("gptq", group=96), quantization_config=section(group_size=96)),
        "which group_size 96 does not divide",
    ),
    Case("QG118", wrote("gptq", made=changed("gptq", **EIGHT), quantization_config=MIXED), "1 modules of 8 bits"),
    Case("QG119", wrote("bnb8", made=models.tensors()), "all modules are dense"),
    Case("QG120", wrote("", quantization_config={"quant_method": "aqlm"}), "says aqlm"),
    Case("QG201", wrote("", files={"config.json": None}), "missing"),
    Case("QG201", wrote("", files={"config.json": "[1]"}), "is no JSON object"),
    Case("QG201", wrote("", hidden_size="256"), '"hidden_size" is \'256\''),
    Case("QG201", wrote("", num_attention_heads=7), "a divisor of hidden_size"),
    Case("QG201", wrote("", model_type=None), "has no model_type"),
    Case("QG202", wrote("", intermediate_size=384), "is 512x256 (config.json implies 384x256) (and 3 more like it)"),
    Case("QG202", wrote("gptq", intermediate_size=384), "is 512x256 (config.json implies 384x256)"),
    Case("QG202", wrote("", vocab_size=999), "model.embed_tokens.weight is 320x256 (config.json implies 999x256)"),
    Case("QG202", wrote("bnb4", intermediate_size=384), "holds 131072 weights of 4 bits"),
    Case("QG202", wrote("", made=models.tensors() | {"model.layers.0.input_layernorm.weight": ("BF16", (128,))}),
         "input_layernorm.weight is 128 (config.json implies 256)"),
    Case("QG203", wrote("", num_hidden_layers=6), "says 6 layers (the weights have 4, up to number 3, layer 4 is missing)"),
    Case("QG203", wrote("", num_hidden_layers=2), "says 2 layers (the weights have 4"),
    Case("QG203", wrote("", made=without("", "model.layers.1.")), "layer 1 is missing"),
    Case("QG204", wrote("", made=without("", Q0)), "layers.0.self_attn.q_proj is missing (3 of 4 layers have it)"),
    Case("QG204", wrote("gptq", made=without("gptq", "model.layers.2.mlp.up_proj")), "layers.2.mlp.up_proj is missing"),
    Case("QG204", wrote("", made=without("", "model.layers.3.self_attn")), "has no attention"),
    Case("QG204", wrote("", made=without("", "model.embed_tokens")), "embed_tokens.weight is missing"),
    Case("QG205", wrote("", dtype="float16"), "says dtype float16 (30 matrices are BF16"),
    Case("QG206", wrote("", made=without("", "lm_head")), "there is no lm_head"),
    Case("QG207", wrote("", tie_word_embeddings=True), "there is an lm_head"),
    Case("QG209", wrote("", architectures=None), "names no architectures"),
    Case("QG210", wrote("gptq", rope_theta=10000.0), "says rope_theta 10000.0", wrote("", rope_theta=1e6)),
    Case("QG211", wrote("gptq", intermediate_size=384), "(in the baseline 384x256)", wrote("", intermediate_size=384,
         made=models.tensors() | {f"model.layers.{n}.mlp.up_proj.weight": ("BF16", (384, 256)) for n in range(LAYERS)})),
    Case("QG211", wrote("gptq", made=without("gptq", "model.norm")), "model.norm is missing", PLAIN),
    Case("QG212", wrote("gptq"), "the baseline: model.safetensors", then("", cut)),
    Case("QG213", wrote("gptq", made=models.tensors("gptq") | {"extra.weight": ("F16", (2, 2))}), "extra is not", PLAIN),
    Case("QG301", then("", lambda folder: (folder / "model.safetensors").unlink()), "has no weights"),
    Case("QG302", then("", cut), "truncated (found"),
    Case("QG303", then("", lambda folder: (folder / INDEX).write_text("{}")), "no weight_map"),
    Case("QG304", then("", lambda folder: (folder / SECOND).unlink(), shards=3), "is missing, though"),
    Case("QG305", edit_index(move), f"lm_head.weight is listed in {SECOND} (found in"),
    Case("QG305", edit_index(lambda index: index["weight_map"].update(ghost=SECOND)), "ghost is listed in"),
    Case("QG305", edit_index(lambda index: index["weight_map"].pop("lm_head.weight")), "and not in the index"),
    Case("QG306", then("", twice, shards=3), "is also in model-00001"),
    Case("QG307", edit_index(lambda index: index["metadata"].update(total_size=5)), "total_size is 5 (the shards hold"),
    Case("QG308", then("", lambda folder: models.write_weights(folder / "old.safetensors", {"a": ("F32", (2,))})), "old"),
    Case("QG309", then("", lambda folder: models.write_weights(folder / "model.safetensors", models.tensors()), shards=3),
         "stands beside model.safetensors"),
    Case("QG310", then("", rename_shards, shards=3), "lists part1.safetensors (expected model-00001-of-00003"),
    Case("QG311", then("gptq", lambda folder: (folder / "model.safetensors").rename(folder / "gptq.safetensors")),
         "gptq.safetensors: is not the name that loaders expect"),
    Case("QG312", then("", lambda folder: (folder / INDEX).unlink(), shards=3), "has 3 safetensors files and no"),
    Case("QG401", wrote("", files=NO_TOKENIZER), "has no tokenizer"),
    Case("QG402", wrote("", files={"tokenizer.json": "{"}), "no vocabulary that can be read"),
    Case("QG402", wrote("", files={"tokenizer_config.json": "[]"}), "is no JSON object"),
    Case("QG403", wrote("", files={"tokenizer.json": models.tokenizer(400)}), "has the id 399 ('t399'; the embedding has"),
    Case("QG403", wrote("", files={"tokenizer.json": models.tokenizer(VOCABULARY + 1)}), f"has the id {VOCABULARY} ("),
    Case("QG404", wrote("", eos_token_id=VOCABULARY), f"says eos_token_id {VOCABULARY} (allowed: 0 to"),
    Case("QG405", wrote("", files={"chat_template.jinja": "other"}), "from its line 1 on", PLAIN),
    Case("QG406", wrote("", files={"tokenizer_config.json": {}}), "the baseline has one", PLAIN),
    Case("QG407", wrote("", files={"tokenizer.json": models.tokenizer(290)}), "has 10 tokens with another id", PLAIN),
    Case("QG407", wrote("", files={"tokenizer.json": models.tokenizer(normalizer={"type": "NFC"})}), "normalizer", PLAIN),
    Case("QG407", wrote("", files={**NO_TOKENIZER, "tokenizer.model": b"a"}), "tokenizer.model: is another file",
         wrote("", files={**NO_TOKENIZER, "tokenizer.model": b"b"})),
    Case("QG407", wrote("", files={"tokenizer.json": models.tokenizer() | {
        "model": models.tokenizer()["model"] | {"merges": ["a b"]}
    }}), "merges tokens differently", PLAIN),
    Case("QG408", wrote("", files={**NO_TOKENIZER, "vocab.json": {}}), "neither tokenizer.json nor merges.txt"),
    Case("QG408", wrote("", files={"tokenizer_config.json": None}), "has no tokenizer_config.json"),
    Case("QG408", wrote(""), "has no preprocessor_config.json", wrote("", files={"preprocessor_config.json": {}})),
    Case("QG409", wrote("", files={"generation_config.json": None}), "has no generation_config.json"),
    Case("QG410", wrote("", files={"generation_config.json": "nonsense"}), "not JSON"),
    Case("QG411", wrote("", files={"generation_config.json": {"eos_token_id": 7}}), "stops at [7]"),
    Case("QG411", wrote("", eos_token_id=2, files={"generation_config.json": {"eos_token_id": [2]}}), "'<1>' is 1"),
    Case("QG412", wrote("", files={"generation_config.json": {"eos_token_id": 1}}), "says eos_token_id 1", PLAIN),
    Case("QG413", wrote("", files={"tokenizer_config.json": {"eos_token": "<no>"}}), "names the eos_token '<no>'"),
    Case("QG414", wrote("", files={"tokenizer_config.json": {}}), "has no chat template"),
    Case("QG501", wrote("gptq", made=models.tensors() | {n: v for n, v in models.tensors("gptq").items() if Q0 in n}),
         "bits per weight in its layers (it says 4; allowed: 10)"),
    Case("QG502", wrote("gptq", made=models.tensors("gptq") | {"extra.weight": ("F32", (2**20, 2))}), "baseline has", PLAIN),
    Case("QG504", wrote("", files={"training_args.bin": b"x"}), "training_args.bin: is a file of the training run"),
    Case("QG601", wrote("", shards=0, files={"pytorch_model.bin": b"\x80"}), "is a pickle"),
    Case("QG602", wrote("", files={"pytorch_model.bin": b"\x80"}), "is a pickle beside safetensors"),
    Case("QG603", wrote("", files={"modeling_x.py": "x"}), "modeling_x.py: is code"),
    Case("QG603", wrote("", auto_map={"AutoModel": "x.y"}), "config.json: has auto_map"),
    Case("QG604", wrote("", files={"README.md": "A model."}), "has no licence"),
    Case("QG605", wrote("", files={"README.md": None, "LICENSE": "MIT"}), "has no README.md"),
    Case("QG606", then("", lambda folder: (folder / "notes.txt").symlink_to("/etc/passwd")), "leads out of the folder"),
    Case("QG608", wrote("", files={"adapter_config.json": {}}), "is an adapter's"),
    Case("QG701", wrote("gptq", made=models.tensors("gptq", bits=2), quantization_config=section(bits=2)),
         "says gptq 2 bit group 64, which no fast kernel runs; vLLM GPTQ, Triton can, slower"),
    Case("QG702", wrote("gptq", made=models.tensors("gptq") | {
        f"model.odd.{part}": value for part, value in models.PACKINGS["gptq"](40, HIDDEN, BITS, GROUP).items()
    }), "is 40x256, which Marlin, Machete, ExLlamaV2 cannot split"),
    Case("QG702", wrote("gptq", made=models.tensors("gptq") | {
        f"model.odd.{part}": value for part, value in models.PACKINGS["gptq"](HIDDEN, 80, BITS, GROUP).items()
    }), "is 256x80, which"),
    Case("QG703", wrote("gptq", made=models.tensors("gptq", group=512), quantization_config=section(group_size=-1)),
         "desc_act with group_size -1"),
    Case("QG704", wrote("fp8"), "FP8 (from 8.9)"),
    Case("QG705", wrote("gptq", quantization_config=section(sym=False)), "sym false in the format gptq"),
]  # fmt: skip
