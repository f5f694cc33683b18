"""Names to things, loaded on first use.

Every open set (metrics, backends, quantizers, reporters) is a table of `name -> "module:attribute"`. Built-ins are
listed here, distributions add theirs by entry points (group `pytest_quantgate.<kind>`), and a conftest by the hook
`pytest_quantgate_register`. Nothing is imported until a name is asked for, so an engine that is not installed costs
nothing, and a missing one is a one-line error with the `pip install` to run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pytest_quantgate.errors import MissingExtraError, UnknownNameError, UsageError
from pytest_quantgate.terms import ALIASES

if TYPE_CHECKING:
    from pytest_quantgate.spec import MetricDefinition

__all__ = ["Kind", "Registry", "load"]

Kind: TypeAlias = Literal["metrics", "backends", "quantizers", "reporters"]

_BUILT_IN: Mapping[Kind, Mapping[str, str]] = {
    "metrics": {
        "ppl": "pytest_quantgate.metrics.tokens:PPL",
        "kld": "pytest_quantgate.metrics.tokens:KLD",
        "top1_agreement": "pytest_quantgate.metrics.tokens:TOP1_AGREEMENT",
        "delta_p": "pytest_quantgate.metrics.tokens:DELTA_P",
        "disk": "pytest_quantgate.metrics.footprint:DISK",
        "weights_memory": "pytest_quantgate.metrics.footprint:WEIGHTS_MEMORY",
        "bits_per_weight": "pytest_quantgate.metrics.footprint:BITS_PER_WEIGHT",
        "tokens_per_second": "pytest_quantgate.metrics.generation:TOKENS_PER_SECOND",
        "ttft": "pytest_quantgate.metrics.generation:TTFT",
        "token_latency": "pytest_quantgate.metrics.generation:TOKEN_LATENCY",
        "load_time": "pytest_quantgate.metrics.generation:LOAD_TIME",
        "vram": "pytest_quantgate.metrics.generation:VRAM",
        "ram": "pytest_quantgate.metrics.generation:RAM",
        "mmlu": "pytest_quantgate.metrics.mmlu:MMLU",
        "ceval": "pytest_quantgate.metrics.ceval:CEVAL",
        "gsm8k": "pytest_quantgate.metrics.gsm8k:GSM8K",
        "humaneval": "pytest_quantgate.metrics.humaneval:HUMANEVAL",
        "humaneval_plus": "pytest_quantgate.metrics.humaneval:HUMANEVAL_PLUS",
        "lm_eval": "pytest_quantgate.metrics.lm_eval:LM_EVAL",
        "evaluate": "pytest_quantgate.metrics.evaluate:EVALUATE",
        "evalution": "pytest_quantgate.metrics.evalution:EVALUTION",
        "worst_capability": "pytest_quantgate.metrics.worst:WORST_CAPABILITY",
    },
    "backends": {
        "transformers": "pytest_quantgate.backends.transformers:load",
        "gguf": "pytest_quantgate.backends.gguf:load",
        "server": "pytest_quantgate.backends.server:load",
    },
    "quantizers": {
        "gptq": "pytest_quantgate.quantizers.gptqmodel:quantizer",
        "awq": "pytest_quantgate.quantizers.gptqmodel:quantizer",
        "gguf": "pytest_quantgate.quantizers.gguf:quantizer",
        "llmcompressor": "pytest_quantgate.quantizers.llmcompressor:quantizer",
        "autoround": "pytest_quantgate.quantizers.autoround:quantizer",
        "auto-gptq": "pytest_quantgate.quantizers.autogptq:quantizer",
        "autoawq": "pytest_quantgate.quantizers.autoawq:quantizer",
    },
    "reporters": {
        "terminal": "pytest_quantgate.reporters.terminal:render",
        "report.json": "pytest_quantgate.reporters.json:render",
        "report.md": "pytest_quantgate.reporters.markdown:render",
    },
}
_SINGULAR: Mapping[Kind, str] = {
    "metrics": "metric",
    "backends": "backend",
    "quantizers": "quantization method",
    "reporters": "report format",
}
# what decides the numbers of a built-in backend, or of a checkpoint that a built-in method made
_DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = {
    "transformers": ("torch", "transformers"),
    "gptq": ("gptqmodel", "auto-gptq"),
    "awq": ("gptqmodel", "autoawq", "autoawq-kernels"),
    "gguf": ("llama-cpp-python", "gguf"),
    "bitsandbytes": ("bitsandbytes",),
    "torchao": ("torchao",),
    "quanto": ("optimum-quanto",),
    "compressed-tensors": ("compressed-tensors",),
    "llmcompressor": ("llmcompressor", "compressed-tensors"),
    "autoround": ("auto-round",),
    "auto-round": ("auto-round",),
    "auto-gptq": ("auto-gptq",),
    "autoawq": ("autoawq",),
}
_EXTRA_OF = {
    "torch": "hf",
    "transformers": "hf",
    "accelerate": "hf",
    "safetensors": "hf",
    "datasets": "hf",
    "huggingface_hub": "hf",
    "gptqmodel": "gptq",
    "optimum": "gptq",
    "llama_cpp": "gguf",
    "httpx2": "server",
    "gguf": "gguf",
    "bitsandbytes": "bitsandbytes",
    "torchao": "torchao",
    "compressed_tensors": "compressed-tensors",
    "llmcompressor": "llmcompressor",
    "auto_round": "autoround",
    "auto_gptq": "auto-gptq",
    "awq": "autoawq",
}


def load(reference: str) -> Any:
    """Import what "module:attribute" names.

    Raises:
        MissingExtraError: the module needs an optional dependency that is not installed.
        UsageError: the reference is malformed, or names nothing.

    """
    module_name, separator, attribute = reference.partition(":")
    if not separator:
        raise UsageError(f"{reference!r} is no reference; write 'module:attribute'")
    try:
        return getattr(import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in _EXTRA_OF:
            raise MissingExtraError(
                f"{module_name} ({missing} is not installed)", _EXTRA_OF[missing]
            ) from error
        raise UsageError(f"{reference!r} cannot be imported: {error}") from error
    except AttributeError as error:
        raise UsageError(f"{reference!r} does not exist: {error}") from error


class Registry:
    """The open sets by name. One is made per session; registering a taken name replaces it."""

    def __init__(self) -> None:
        self._references: dict[Kind, dict[str, str]] = {
            kind: dict(table) for kind, table in _BUILT_IN.items()
        }
        self._distributions = dict(_DISTRIBUTIONS)
        self._defined: dict[str, MetricDefinition] = {}
        for kind, references in self._references.items():
            for point in entry_points(group=f"pytest_quantgate.{kind}"):
                references[point.name] = point.value
                if point.dist is not None:
                    self._distributions[point.name] = (point.dist.name,)

    def add(self, kind: Kind, name: str, reference: str) -> None:
        """Register "module:attribute" under `name`.

        Raises:
            UnknownNameError: there is no such kind.

        """
        if kind not in self._references:
            raise UnknownNameError("kind of extension", kind, self._references)
        self._references[kind][name] = reference

    def define(self, definition: MetricDefinition) -> None:
        """Register a metric that the configuration made: it lies in no module."""
        self._references["metrics"][definition.name] = definition.observer
        self._defined[definition.name] = definition

    def names(self, kind: Kind) -> Iterable[str]:
        """Return the registered names of a kind, built-ins first."""
        return tuple(self._references[kind])

    def distributions(self, name: str) -> tuple[str, ...]:
        """Return the distributions whose versions belong to the identity of what this backend or method gives."""
        return self._distributions.get(name, ())

    def reference(self, kind: Kind, name: str) -> str:
        """Return the "module:attribute" that is registered under `name`, without importing it.

        Raises:
            UnknownNameError: nothing is; the message suggests what may have been meant.

        """
        reference = self._references[kind].get(name)
        if reference is None:
            known = [*self._references[kind], *(ALIASES if kind == "metrics" else ())]
            hint = "pytest --quantgate-metrics lists them" if kind == "metrics" else ""
            raise UnknownNameError(_SINGULAR[kind], name, known, hint)
        return reference

    def get(self, kind: Kind, name: str) -> Any:
        """Load what is registered under `name`.

        Raises:
            UnknownNameError: nothing is; the message suggests what may have been meant.
            MissingExtraError: its optional dependency is not installed.

        """
        if kind == "metrics" and name in self._defined:
            return self._defined[name]
        return load(self.reference(kind, name))
