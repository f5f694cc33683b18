"""Recipes: what a table may say, that every default is part of the identity, and which groups fit a model."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.errors import ConfigError, UnknownNameError
from pytest_quantgate.recipe import METHODS, archived, check_fits, from_table
from pytest_quantgate.spec import Recipe

SAMPLE = "one sample\n"


@pytest.fixture
def folder(tmp_path):
    """A project folder that holds chat.txt."""
    (tmp_path / "chat.txt").write_text(SAMPLE)
    return tmp_path


CALIBRATED = [name for name, method in METHODS.items() if method.calibration != "none"]


def make(folder, method="gptq", **keys):
    file = {"calibration": "chat.txt"} if method in CALIBRATED else {}
    return from_table("v", {"method": method, **file, **keys}, folder)


@pytest.mark.parametrize("method", CALIBRATED)
def test_every_default_is_written_out(folder, method):
    """A recipe that says nothing has each parameter of its method, and the digest of its calibration file."""
    recipe = make(folder, method)
    assert dict(recipe.parameters) == {key: rule.default for key, rule in METHODS[method].keys.items()}
    assert recipe.calibration_digest == hashlib.sha256(SAMPLE.encode()).hexdigest()
    assert recipe.calibration == str(folder / "chat.txt")


@pytest.mark.parametrize("method", [name for name in METHODS if name not in CALIBRATED])
def test_a_method_that_takes_no_calibration_refuses_it(folder, method):
    """What would be passed over in silence is a mistake."""
    made = make(folder, method)
    assert (made.calibration, made.calibration_digest) == ("", "")
    with pytest.raises(ConfigError, match=f"{method} has no parameter 'calibration'"):
        make(folder, method, calibration="chat.txt")


@pytest.mark.parametrize("method", [name for name, one in METHODS.items() if one.calibration == "optional"])
def test_calibration_that_may_be_left_out_counts_where_it_is_given(folder, method):
    """With samples and without them are two recipes."""
    assert from_table("v", {"method": method}, folder).identity() != make(folder, method).identity()


def test_words_are_checked_like_numbers(folder):
    """A type that the method has not is refused with those that it has."""
    assert make(folder, "gguf", type="Q8_0")["type"] == "Q8_0"
    for wrong in ("Q9_0", 4, True, ["Q8_0"]):
        with pytest.raises(ConfigError, match="cannot be used; write F32 or F16"):
            make(folder, "gguf", type=wrong)


def test_where_a_recipe_is_carried_out_is_no_part_of_it(folder):
    """What is installed there counts, the path does not."""
    made = make(folder)
    elsewhere = replace(made, python="/old/python")
    assert elsewhere.identity() == made.identity()
    assert Recipe.from_json(elsewhere.to_json()) == elsewhere


@pytest.mark.parametrize("method", METHODS)
def test_saying_a_default_changes_nothing(folder, method):
    """A recipe that spells a default out is the same recipe."""
    for key, rule in METHODS[method].keys.items():
        assert make(folder, method, **{key: rule.default}) == make(folder, method)


def test_a_recipe_survives_json(folder):
    """What `to_json` writes is read back equal."""
    recipe = make(folder, bits=3, group_size=-1, desc_act=True, damp_percent=0.01)
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_identity_is_the_content_of_the_calibration_file(folder):
    """The same content under another name is the same recipe; another content is not."""
    (folder / "copy.txt").write_text(SAMPLE)
    (folder / "other.txt").write_text(SAMPLE + SAMPLE)
    one, copy, other = (make(folder, calibration=name) for name in ("chat.txt", "copy.txt", "other.txt"))
    assert one.identity() == copy.identity() != other.identity()


def test_every_parameter_is_part_of_the_identity(folder):
    """Changing any one parameter gives another identity."""
    changes = {
        "bits": 8, "group_size": 32, "desc_act": True, "act_group_aware": True, "sym": False,
        "damp_percent": 0.1, "samples": 7, "max_length": 19,
    }  # fmt: skip
    assert changes.keys() == METHODS["gptq"].keys.keys()
    identities = [make(folder, **{key: value}).identity() for key, value in changes.items()]
    identities.append(make(folder).identity())
    assert all(identities.count(identity) == 1 for identity in identities)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"bits": 5}, "bits = 5 cannot be used; write 2 or 3 or 4 or 8"),
        ({"bits": 4.0}, "bits = 4.0 cannot be used"),
        ({"bits": "4"}, "bits = '4' cannot be used"),
        ({"bits": True}, "bits = True cannot be used"),
        ({"group_size": 0}, "group_size = 0 cannot be used; write -1 or 16"),
        ({"group_size": 100}, "group_size = 100"),
        ({"desc_act": 1}, "desc_act = 1 cannot be used; write true or false"),
        ({"desc_act": "yes"}, "desc_act = 'yes'"),
        ({"damp_percent": 0}, "damp_percent = 0 cannot be used; write a number between 0 and 1"),
        ({"damp_percent": 1.0}, "damp_percent = 1.0"),
        ({"damp_percent": float("nan")}, "damp_percent = nan"),
        ({"damp_percent": True}, "damp_percent = True"),
        ({"samples": 0}, "samples = 0 cannot be used; write a whole number from 1 to 1000000"),
        ({"max_length": -5}, "max_length = -5"),
        ({"max_length": 1.5}, "max_length = 1.5"),
        ({"desc_act": True, "act_group_aware": True}, "desc_act and act_group_aware exclude each other"),
        ({"group_sise": 64}, "gptq has no parameter 'group_sise'; did you mean 'group_size'?"),
        ({"zero_point": True}, "gptq has no parameter 'zero_point'; it has: act_group_aware, bits"),
        ({"method": "awq", "bits": 8}, "bits = 8 cannot be used; write 4"),
        ({"method": "awq", "desc_act": True}, "awq has no parameter 'desc_act'"),
        ({"calibration": "gone.txt"}, "gone.txt does not exist"),
        ({"calibration": "."}, "does not exist"),
        ({"calibration": ""}, "calibration = '' is no path"),
        ({"calibration": 3}, "calibration = 3 is no path"),
        ({"calibration": "empty.txt"}, "empty.txt is empty"),
    ],
)
def test_what_cannot_be_used_is_named(folder, keys, message):
    """Each mistake is a usage error of one line that names the variant, the thing and what to write."""
    (folder / "empty.txt").touch()
    with pytest.raises(ConfigError) as caught:
        make(folder, **keys)
    assert message in str(caught.value)
    assert str(caught.value).startswith("variant 'v', quantize: ")
    assert "\n" not in str(caught.value)


def test_a_recipe_needs_a_calibration_file(folder):
    """No default stands in for the calibration file."""
    with pytest.raises(ConfigError, match="no calibration; name a text or JSON-lines file"):
        from_table("v", {"method": "gptq"}, folder)


def test_a_recipe_needs_a_method(folder):
    """A table without a method says which there are."""
    with pytest.raises(ConfigError, match="no method; write method = 'gptq' or 'awq'"):
        from_table("v", {"bits": 4}, folder)


@pytest.mark.parametrize(
    ("method", "hint"), [("gtpq", "did you mean 'gptq'"), ("exl3", "autoround, awq, bitsandbytes"), (7, "7")]
)
def test_an_unknown_method_gets_a_suggestion(folder, method, hint):
    """An unknown method is named, with what there is and the variant."""
    with pytest.raises(UnknownNameError, match=r"unknown quantization method .*variant 'v'") as caught:
        make(folder, method)
    assert hint in str(caught.value)


def test_damping_is_one_number_however_written(folder):
    """An int where a float belongs would be a second identity of one recipe: it becomes a float or is refused."""
    assert type(make(folder, damp_percent=0.5)["damp_percent"]) is float
    assert type(make(folder, bits=8)["bits"]) is int


WIDTHS = {"layers.0.q_proj": 128, "layers.0.down_proj": 288}


def test_groups_that_do_not_divide_are_refused_before_anything_is_loaded(folder):
    """The first layer that does not fit is named, with its width and the sizes that fit all layers."""
    with pytest.raises(ConfigError) as caught:
        check_fits(make(folder, group_size=64), WIDTHS)
    assert str(caught.value) == (
        "group_size = 64 does not divide the input width 288 of layers.0.down_proj; "
        "group sizes that fit this model: -1, 16, 32"
    )


@given(width=st.integers(1, 4096), size=st.sampled_from(METHODS["gptq"].keys["group_size"].choices))
def test_a_size_fits_exactly_when_it_divides(width, size):
    """`check_fits` accepts a size if and only if it divides the width or stands for the whole row."""
    recipe = Recipe("gptq", (("group_size", size),))
    if size == -1 or width % size == 0:
        check_fits(recipe, {"layer": width})
    else:
        with pytest.raises(ConfigError, match="does not divide"):
            check_fits(recipe, {"layer": width})


def test_the_sizes_that_are_suggested_fit(folder):
    """Whatever the message suggests is accepted for the same model."""
    recipe = make(folder, "awq", group_size=128)
    with pytest.raises(ConfigError) as caught:
        check_fits(recipe, WIDTHS)
    for size in str(caught.value).rpartition(": ")[2].split(", "):
        check_fits(replace(recipe, parameters=(("group_size", int(size)),)), WIDTHS)


def test_an_archived_library_names_its_successor(folder):
    """A team that must make an old release again may, and is told what to take otherwise."""
    assert archived(None) == archived(make(folder)) == ()
    assert archived(make(folder, "auto-gptq")) == (
        "auto-gptq is archived; its successor here is method = 'gptq', which makes the same format",
    )
