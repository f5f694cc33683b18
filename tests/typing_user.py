"""What a user's test file looks like to a type checker: `mypy --strict tests/typing_user.py`; never executed."""

from __future__ import annotations

from typing import assert_type

from pytest_quantgate.gate import And, Comparison, Gate, Metric, Not, Or
from pytest_quantgate.parse import parse
from pytest_quantgate.terms import kld, metric, ppl, ppl_delta, ttft, vram
from pytest_quantgate.units import GiB, Quantity, ms, percent

assert_type(ppl, Metric)
assert_type(kld.p99.ratio, Metric)
assert_type(ppl(protocol="gptq", window=2048).delta, Metric)
assert_type(metric("mmlu")("stem").drop, Metric)

assert_type(2 * GiB, Quantity)
assert_type(GiB / 2, Quantity)
assert_type(-percent, Quantity)

assert_type(ppl_delta < 1.0, Comparison)
assert_type(ppl_delta <= 1, Comparison)
assert_type(vram < 2 * GiB, Comparison)
assert_type((ppl_delta < 1.0) & (ttft < 70 * ms), And)
assert_type((ppl_delta < 1.0) | (ttft < 70 * ms), Or)
assert_type(~(ppl_delta < 1.0), Not)
assert_type(1.0 > ppl_delta, Comparison)  # noqa: SIM300 (reflection is tested)
assert_type(2 * GiB > vram, Comparison)
assert_type(parse("ppl_delta < 1"), Gate)

gates: list[Gate] = [ppl_delta < 1.0, ~(kld.mean > 0.05), (kld.mean < 1) & (ppl < 9)]
assert_type(gates[0].metrics(), tuple[Metric, ...])
assert_type(gates[0].evaluate(lambda comparison: comparison.limit.si > 0), bool | None)

# each line below is a mistake that the checker finds before pytest does
_ = ppl < "2GiB"  # type: ignore[operator]
_ = ppl < None  # type: ignore[operator]
_ = ppl < kld  # type: ignore[operator]
ppl(window=None)  # type: ignore[arg-type]
(ppl < 1) & "kld.mean < 1"  # type: ignore[operator]
ppl.name = "other"  # type: ignore[misc]
