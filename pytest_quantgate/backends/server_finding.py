"""Which server answers: waited for until it is ready, the model that it serves, and the kind that it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from pytest_quantgate.backends.launching import pause
from pytest_quantgate.backends.server_flavor import Flavor
from pytest_quantgate.backends.server_llama_cpp import LlamaCpp
from pytest_quantgate.backends.server_llama_cpp_python import LlamaCppPython
from pytest_quantgate.backends.server_sglang import SGLang
from pytest_quantgate.backends.server_vllm import VLLM
from pytest_quantgate.errors import ConfigError, ObservationError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_quantgate.backends.launching import Launched
    from pytest_quantgate.backends.server_link import Link
    from pytest_quantgate.backends.server_text import Text

__all__ = ["FLAVORS", "flavor_of", "served_by", "wait_for"]

MODELS = "/v1/models"
OK, LOADING, UNAUTHORIZED = 200, 503, (401, 403)
LOST = 0
FLAVORS: Final[Mapping[str, type[Flavor]]] = {
    kind.name: kind for kind in (Flavor, VLLM, SGLang, LlamaCpp, LlamaCppPython)
}


def wait_for(link: Link, place: str, limit: float, launched: Launched | None) -> list[dict[str, Any]]:
    """Return the models that a server lists, as soon as it is ready.

    Raises:
        ObservationError: it ended, was not there, or was not ready in `limit` seconds.

    """
    until, wait = time.monotonic() + limit, 0.1
    while True:
        found, state = _ready(link, place)
        if launched is not None and (ended := launched.died()):
            raise ObservationError(ended)
        if found is not None:
            return found
        if launched is None and state.startswith("nothing"):
            raise ObservationError(f"{place}: no server at {link.root}: {state}; start it, or give launch")
        if time.monotonic() > until:
            tail = f"; its log ends: {launched.tail()} (log: {launched.log})" if launched else ""
            raise ObservationError(
                f"{place}: {link.root} was not ready in {limit:g} s ({state}); set start_limit{tail}"
            )
        wait = pause(min(wait, max(0.05, until - time.monotonic())))


def _ready(link: Link, place: str) -> tuple[list[dict[str, Any]] | None, str]:
    """Return the models, or None and what the server is at."""
    status, told = link.get("/health")
    if status == LOST:
        return None, str(told)
    if status == LOADING:
        return None, "it is loading"
    status, told = link.get(MODELS)
    if status in UNAUTHORIZED:
        raise ObservationError(
            f"{place}: {link.root} refuses the key (status {status}); name the variable that holds it by api_key_env"
        )
    models = told.get("data") if isinstance(told, dict) else None
    if status == OK and isinstance(models, list) and all(isinstance(model, dict) for model in models):
        return models, ""
    if status in (LOST, LOADING):
        return None, str(told or "it is loading")
    raise ObservationError(
        f"{place}: {link.root}{MODELS} answers with status {status} and no list of models; is it an OpenAI-compatible"
        " server?"
    )


def served_by(models: list[dict[str, Any]], wanted: str, place: str, root: str) -> dict[str, Any]:
    """Return the entry of the model that is to be measured.

    Raises:
        ObservationError: the server has another one.
        ConfigError: it has several, and none is named.

    """
    names = [str(model.get("id", "")) for model in models]
    listed = ", ".join(names[:6]) or "none"
    if wanted:
        found = next((model for model in models if model.get("id") == wanted), None)
        if found is None:
            raise ObservationError(
                f"{place}: {root} serves another model than said: {listed}, not {wanted}; correct served"
            )
        return found
    if len(models) != 1:
        raise ConfigError(f"{place}: {root} serves {len(models)} models ({listed}); name one by served")
    return models[0]


def flavor_of(name: str, card: Mapping[str, Any], link: Link, text: Text, place: str) -> Flavor:
    """Return the way to ask a server of the kind that is named, or that owns the model ("auto").

    Raises:
        UnknownNameError: no such kind.

    """
    if name != "auto":
        if name not in FLAVORS:
            raise UnknownNameError(f"flavor of {place}", name, ["auto", *FLAVORS])
        return FLAVORS[name](link, text, card)
    owner = card.get("owned_by")
    kind = next((kind for kind in FLAVORS.values() if kind.owner and kind.owner == owner), Flavor)
    return kind(link, text, card)
