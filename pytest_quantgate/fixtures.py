"""The fixtures: a variant, its loaded model, the baseline, and measuring from inside a test.

Every run imports this file; what the fixtures return is imported by the first test that asks for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from pytest_quantgate import options
from pytest_quantgate.places import EDGE

if TYPE_CHECKING:
    from pytest_quantgate.handles import Baseline, Quantgate, QuantizedModel, QuantVariant
    from pytest_quantgate.interfaces import Model
    from pytest_quantgate.session import Session


def _session_of(request: pytest.FixtureRequest) -> Session:
    if not options.is_active(request.config):
        pytest.skip("needs --quantgate: it measures models")
    session: Session = request.config.stash[EDGE].session
    return session


@pytest.fixture(scope="session")
def quant_variant(request: pytest.FixtureRequest) -> QuantVariant:
    """The specification of a configured variant; the test runs once for each."""
    from pytest_quantgate.handles import QuantVariant  # noqa: PLC0415  free unless asked for

    return QuantVariant(request.param, _session_of(request).measurements)


@pytest.fixture(scope="session")
def quantized_model(quant_variant: QuantVariant) -> QuantizedModel:
    """A configured variant: model, tokenizer, path and recipe, loaded on first use; the test runs once for each."""
    from pytest_quantgate.handles import QuantizedModel  # noqa: PLC0415  free unless asked for

    return QuantizedModel(quant_variant)


@pytest.fixture(scope="session")
def baseline(request: pytest.FixtureRequest) -> Baseline:
    """Cached measurements of the unquantized model."""
    from pytest_quantgate.handles import Baseline  # noqa: PLC0415  free unless asked for

    return Baseline(_session_of(request).measurements)


@pytest.fixture(scope="module")
def baseline_model(request: pytest.FixtureRequest) -> Iterator[Model]:
    """The loaded unquantized model, beside the variant's if the test asks for both; freed after the module."""
    measurements = _session_of(request).measurements
    if measurements.baseline is None:
        pytest.fail('no baseline is configured; add baseline = "..." to [tool.quantgate]', pytrace=False)
    model = measurements.engine.load_beside(measurements.baseline)
    yield model
    model.close()


@pytest.fixture
def quantgate(request: pytest.FixtureRequest, quant_variant: QuantVariant) -> Quantgate:
    """Measures and checks from inside a test body."""
    from pytest_quantgate.handles import Quantgate  # noqa: PLC0415  free unless asked for

    return Quantgate(quant_variant, _session_of(request))
