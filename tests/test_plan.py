"""Plans: each step once, the baseline first, each model's steps together."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.differences import differences
from pytest_quantgate.plan import Want, make
from pytest_quantgate.spec import ModelSpec, Protocol, Recipe, Step

BASE = ModelSpec("baseline", "base", "sha256:0", dtype="bfloat16")
NAMES = ("v1", "v2", "v3")
models = st.builds(
    lambda name, dtype: ModelSpec(name, name, f"sha256:{name}", dtype=dtype),
    st.sampled_from(NAMES),
    st.sampled_from(["float16", "float32"]),
)
wants = st.builds(
    lambda model, kind, window, paired: Want(
        f"m:{kind}", Protocol.of(kind, window=window), model, "abc".index(kind), BASE, paired=paired
    ),
    models,
    st.sampled_from("abc"),
    st.sampled_from([1, 2]),
    st.booleans(),
)


@given(st.lists(wants, max_size=12))
def test_every_want_is_planned_once(asked):
    """The plan holds exactly the steps that the wants need, by key, without repetition."""
    plan = make(asked, NAMES)
    needed = {step.key for want in asked for step in (want.needs().variant, want.needs().baseline)}
    keys = [step.key for step in plan.steps]
    assert sorted(keys) == sorted(needed)


@given(st.lists(wants, max_size=12))
def test_a_reference_comes_before_what_needs_it(asked):
    """A step that reads the baseline's observation comes after the step that makes it."""
    seen: set[str] = set()
    for step in make(asked, NAMES).steps:
        assert not step.reference or step.reference in seen
        seen.add(step.key)


@given(st.lists(wants, max_size=12))
def test_each_model_loads_once(asked):
    """Steps of one model, in one type, are not interrupted by another's."""
    runs: list[tuple[str, str]] = []
    for step in make(asked, NAMES).steps:
        loaded = (step.model.name, step.model.dtype)
        if step.model.is_baseline and (not runs or runs[-1] != loaded):
            assert loaded not in runs
        if not runs or runs[-1] != loaded:
            runs.append(loaded)
    names = [name for name, _ in runs if name != "baseline"]
    assert [name for index, name in enumerate(names) if name not in names[:index]] == sorted(set(names))


@given(st.lists(wants, max_size=8), st.randoms())
def test_order_of_wants_is_irrelevant(asked, random):
    """The same wants in another order need the same steps, model by model."""
    shuffled = list(asked)
    random.shuffle(shuffled)
    first, second = make(asked, NAMES), make(shuffled, NAMES)
    assert {step.key for step in first.steps} == {step.key for step in second.steps}
    assert [step.model.name for step in first.steps] == [step.model.name for step in second.steps]


def test_the_baseline_computes_as_the_variant_does():
    """Baseline and variant are compared in one type and on one device."""
    variant = ModelSpec("v1", "v1", "sha256:1", dtype="float16", device="cuda")
    needs = Want("m:T", Protocol.of("t"), variant, 3, BASE, paired=True).needs()
    assert needs.baseline is not None
    assert (needs.baseline.model.dtype, needs.baseline.model.device) == ("float16", "cuda")
    assert needs.variant.reference == needs.baseline.key


def test_without_a_baseline_there_is_no_reference():
    """An absolute metric needs the variant's step alone."""
    needs = Want("m:T", Protocol.of("t"), replace(BASE, name="v1"), 3, None, paired=True).needs()
    assert (needs.baseline, needs.variant.reference) == (None, "")


CHANGES = {
    "weights": {"weights": "sha256:9"},
    "dtype": {"dtype": "float32"},
    "engine": {"engine": (("torch", "9"),)},
    "options": {"options": (("damage", 1),)},
    "backend": {"backend": "other"},
}
SAME = {"name": "another", "source": "elsewhere", "path": "/there", "device": "cuda"}


def test_identity_is_what_decides_the_number():
    """Whatever can change a number changes the key; names and places do not."""
    step = Step("m:T", BASE, Protocol.of("t", window=3))
    for change in CHANGES.values():
        assert replace(step, model=replace(BASE, **change)).key != step.key
    for name, value in SAME.items():
        assert replace(step, model=replace(BASE, **{name: value})).key == step.key
    assert replace(step, protocol=Protocol.of("t", window=4)).key != step.key
    assert replace(step, device="cuda H100").key != step.key
    assert replace(step, reference="k").key != step.key


def test_a_step_survives_json():
    """A step written as JSON is the same step again, recipe included."""
    recipe = Recipe("gptq", (("bits", 4), ("sym", True)), "there.jsonl", "ab")
    step = Step(
        "m:T",
        replace(BASE, recipe=recipe, options=(("x", 1.5),)),
        Protocol.of("t", corpus={"a": [1]}),
        "r",
        "d",
    )
    again = Step.from_json(step.to_json())
    assert again == step
    assert again.key == step.key


def test_differences_are_named():
    """Each part of the identity that changed is named with both values; nothing else is."""
    step = Step("m:T", replace(BASE, engine=(("torch", "1"),)), Protocol.of("t", window=3))
    other = replace(step, model=replace(BASE, engine=(("torch", "2"),)), protocol=Protocol.of("t", window=4))
    assert differences(step, step) == ()
    assert differences(step, other) == ("model.engine.torch: 1, now 2", "protocol.window: 3, now 4")
    assert differences(step, replace(step, device="cpu")) == ("device: none, now cpu",)
