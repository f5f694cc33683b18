"""What lint looks for: every rule with its id, its name, how bad it is, and what it says in general. Pure.

Ids are stable: 1xx the quantization section and packed tensors, 2xx configuration and shapes, 3xx weight files and
index, 4xx tokenizer, template and generation, 5xx sizes, 6xx safety and papers, 7xx kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["RULES", "SEVERITIES", "Rule", "Severity"]

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""From bad to harmless; an error means that a loader fails, or loads something else than the files say."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that lint looks for.

    Attributes:
        id: stable, for suppressions and dashboards.
        name: the same for people.
        severity: what one finding of it weighs.
        summary: what is wrong when it is found, one sentence.

    """

    id: str
    name: str
    severity: Severity
    summary: str


_ERRORS = """
QG101 quantization-malformed     A field of the quantization section has a value that no loader understands.
QG102 quantization-incomplete    The quantization section lacks a field without which its tensors cannot be unpacked.
QG104 sections-disagree          Two files describe the quantization differently; loaders read one or the other.
QG105 not-in-config              Tensors are packed, and config.json does not say so: loaders see a dense model.
QG107 claims-quantized           The configuration says quantized, and no module is.
QG108 left-dense                 A module is dense where the same module of other layers is packed.
QG110 excluded-but-packed        A module is packed though the configuration excludes it.
QG112 packed-shape               The shapes of a module's packed tensors contradict each other.
QG113 packed-incomplete          A packed module lacks one of its tensors.
QG114 packed-dtype               A packed tensor has a dtype that its format does not use.
QG115 bits-differ                The packing implies other bits than the configuration says.
QG116 groups-differ              The scales imply another group size than the configuration says.
QG201 config-malformed           config.json is missing, no sound JSON, or has a value that no model has.
QG202 shape-differs              A tensor has another shape than config.json implies.
QG203 layers-differ              There are other decoder layers than config.json says.
QG204 tensor-missing             A layer lacks a tensor that layers of its kind have.
QG206 head-missing               Embeddings are not tied and there is no output head.
QG210 baseline-config-differs    config.json describes another network than the baseline's.
QG211 baseline-tensors-differ    A tensor of the baseline is missing, or has another shape here.
QG212 baseline-damaged           The baseline that was given cannot be read itself.
QG301 weights-missing            There are no safetensors weights.
QG302 weights-damaged            A weight file is cut short, damaged, or no safetensors file.
QG303 index-malformed            The index of the shards is no sound index.
QG304 shard-missing              The index lists a file that is not there.
QG305 tensor-misplaced           A tensor is not in the file that the index lists it in.
QG306 tensor-twice               Two files hold the same tensor.
QG307 total-size-differs         The index states another total size than the shards hold.
QG309 two-models                 There are an index and a model.safetensors: which one is loaded depends on the loader.
QG311 not-renamed                The weights are not named as loaders expect.
QG312 index-missing              There are several weight files and no index.
QG401 tokenizer-missing          There is no tokenizer.
QG402 tokenizer-malformed        A file of the tokenizer is no sound JSON.
QG403 vocabulary-too-large       The tokenizer has ids beyond the rows of the embedding.
QG404 special-id-range           A special id is not in the vocabulary.
QG406 template-missing           The baseline has a chat template, and this checkpoint has none.
QG407 tokenizer-differs          The tokenizer gives other ids than the baseline's.
QG410 generation-malformed       generation_config.json is no sound JSON object.
QG413 special-token-unknown      The tokenizer's configuration names a special token that its vocabulary lacks.
QG601 pickle-weights             The only weights are pickles, and loading a pickle runs code.
QG603 custom-code                The checkpoint brings code that a loader may run.
QG606 link-outside               A file is a link that leads out of the folder, or to nothing.
QG608 adapter                    This is an adapter, not a model.
QG801 gguf-damaged               A GGUF file is cut short or damaged.
"""

_WARNINGS = """
QG103 quantization-default       The section leaves a field to the loader's default; defaults differ between loaders.
QG109 projection-dense           A projection is dense in every layer, though others are packed and nothing excludes it.
QG111 head-quantized             The output head or the embedding is quantized, which costs most quality per byte.
QG117 group-divides              The group size does not divide a layer's input width; most kernels refuse that.
QG119 quantized-on-load          The checkpoint is dense and a loader quantizes it each time; its size is the dense one.
QG121 other-types                Matrices have widths that a GGUF type cannot split; larger types stand in for it.
QG205 dtype-differs              Weight matrices have another dtype than config.json states.
QG209 architectures-missing      config.json does not name the model class; servers cannot choose it.
QG213 baseline-tensors-more      There are tensors that the baseline does not have.
QG308 orphan-weights             A weight file is not in the index; nothing loads it.
QG310 shard-names                Shards are not named model-00001-of-0000N.safetensors, one to N.
QG405 template-differs           The chat template is not the baseline's.
QG408 support-file-missing       A file that the tokenizer needs, or that the baseline has, is missing.
QG411 eos-differs                Generation does not stop at the end token of config.json or of the tokenizer.
QG412 generation-differs         generation_config.json differs from the baseline's.
QG501 mostly-dense               Most bytes are not quantized: the checkpoint is far larger than its bits say.
QG502 larger-than-baseline       The weights take no fewer bytes than the baseline's.
QG602 pickle-beside              A pickle lies beside the weights; loading it runs code.
QG604 licence-missing            There is no licence file and no licence in README.md.
QG701 no-fast-kernel             No fast GPU kernel runs this combination of bits, group size and symmetry.
QG702 kernel-shape               Some modules have widths that the fast kernels cannot split.
QG705 asymmetric-v1              Asymmetric GPTQ in the old format: kernels disagree about the zero points.
"""

_NOTES = """
QG118 mixed-bits                 Modules are quantized to different bits, as the configuration says.
QG120 packing-unchecked          Lint does not know how this method packs its tensors; they were not checked.
QG207 head-ignored               Embeddings are tied and there is an output head, which loaders ignore.
QG409 generation-missing         There is no generation_config.json; loaders use their own defaults.
QG414 template-absent            There is no chat template; an instruction-tuned model needs one.
QG504 stray-file                 A file of the training run is left in the folder.
QG605 card-missing               There is no README.md.
QG703 desc-act-without-groups    desc_act with one group per row reorders nothing.
QG704 gpu-needed                 The fast kernels of this format need a GPU of at least some compute capability.
"""


def _rules(severity: Severity, table: str) -> dict[str, Rule]:
    rows = [line.split(None, 2) for line in table.strip().splitlines()]
    return {number: Rule(number, name, severity, summary) for number, name, summary in rows}


RULES: dict[str, Rule] = dict(
    sorted((_rules("error", _ERRORS) | _rules("warning", _WARNINGS) | _rules("note", _NOTES)).items())
)
"""All rules by id."""
