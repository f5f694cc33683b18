"""Tests of the store where nothing goes wrong, and where its user does."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from store_values import entry_of, observation, step, temporaries, value_of

from pytest_quantgate.errors import StoreError
from pytest_quantgate.spec import Observation
from pytest_quantgate.store import Layered, Store, StoreWarning

KEY = "a" * 64


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: no test here cuts the power, and a busy disk takes 50 ms per call."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A fresh store."""
    return Store(tmp_path / "store")


DTYPES = st.sampled_from(list("?bBhHiIqQefd")).flatmap(
    lambda code: st.sampled_from([np.dtype(code).newbyteorder(order) for order in "<>"])
)
ARRAYS = hnp.arrays(
    DTYPES,
    hnp.array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=5),
    elements={"allow_nan": False, "allow_infinity": False},
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(
    arrays=st.dictionaries(st.text(min_size=1), ARRAYS, max_size=4),
    facts=st.dictionaries(st.text(), JSON, max_size=4),
)
def test_what_is_put_is_what_is_got(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any], facts: dict[str, Any]
) -> None:
    """Every array of every dtype, shape and byte order, and all facts, come back equal."""
    store = Store(tmp_path_factory.mktemp("s") / "store")
    store.put(step(), Observation(arrays, facts))
    found = store.get(step().key)
    assert found is not None
    assert found.facts == facts
    assert found.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found.arrays[name].dtype == array.dtype.newbyteorder("<")
        np.testing.assert_array_equal(found.arrays[name], array, strict=False)


def test_a_missing_observation_is_none(store: Store) -> None:
    """An empty store has nothing, and says so quietly."""
    assert store.get(step().key) is None
    assert store.written(step().key) == 0.0
    assert list(store.entries()) == []


def test_a_view_is_stored_as_its_elements(store: Store) -> None:
    """Strided and transposed arrays are kept by value; what is read cannot be written to."""
    array = np.arange(24.0).reshape(4, 6)
    store.put(step(), Observation({"a": array[::2, ::-1], "b": array.T}))
    found = store.get(step().key)
    assert found is not None
    np.testing.assert_array_equal(found.arrays["a"], array[::2, ::-1])
    np.testing.assert_array_equal(found.arrays["b"], array.T)
    with pytest.raises(ValueError, match="read-only"):
        found.arrays["a"][0] = 1.0


def test_a_second_put_replaces_the_first(store: Store) -> None:
    """A refreshed observation is the one that is read."""
    store.put(step(), observation(1.0))
    before = time.time() - 60
    store.put(step(), observation(2.0))
    assert value_of(store.get(step().key)) == 2.0
    assert store.written(step().key) > before
    assert temporaries(store) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numbers_that_are_none_are_refused(store: Store, bad: float, dtype: str) -> None:
    """33: NaN and infinity never enter the store."""
    array = np.ones(1000, dtype)
    array[-1] = bad
    with pytest.raises(StoreError, match="'logprob' holds 1 of 1000 values that are NaN or infinite"):
        store.put(step(), Observation({"logprob": array}))
    with pytest.raises(StoreError, match="finite JSON"):
        store.put(step(), Observation({}, {"deep": [{"x": bad}]}))
    assert store.get(step().key) is None


@pytest.mark.parametrize(
    "array",
    [
        np.array([{}]),
        np.array(["text"]),
        np.array([1j]),
        np.array([1], "datetime64[s]"),
        np.ones(2, np.longdouble),
    ],
)
def test_arrays_that_are_not_plain_numbers_are_refused(store: Store, array: Any) -> None:
    """Objects, text, complex numbers and dates are not stored, and nothing is pickled."""
    with pytest.raises(StoreError, match="has the dtype"):
        store.put(step(), Observation({"a": array}))


@pytest.mark.parametrize("fact", [{1, 2}, b"bytes", np.int64(1), object(), "\ud800"])
def test_facts_that_are_not_json_are_refused(store: Store, fact: Any) -> None:
    """A fact that JSON cannot hold is an error, not a guess."""
    with pytest.raises(StoreError, match="facts that cannot be stored"):
        store.put(step(), Observation({}, {"x": fact}))


@pytest.mark.parametrize(
    "key", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 65, "a" * 63 + "/", "a" * 63 + "\n"]
)
def test_only_digests_are_keys(store: Store, key: str) -> None:
    """37: a key is 64 lower-case digits, so it is a safe file name on every file system."""
    for use in (store.get, store.lock, store.checkpoint, store.checkpoint_record, store.written):
        with pytest.raises(StoreError, match="no key of the store"):
            use(key)


def test_a_new_store_marks_itself_as_a_cache(store: Store) -> None:
    """Git, backups and people see what the folder is."""
    assert (store.root / ".gitignore").read_text().endswith("*\n")
    assert (
        (store.root / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    )
    assert "Safe to delete" in (store.root / "README.md").read_text()


def test_somebody_elses_folder_is_not_hidden_from_git(tmp_path: Path) -> None:
    """`--quantgate-store .` must not write a .gitignore that ignores the project."""
    (tmp_path / "code.py").write_text("")
    Store(tmp_path).put(step(), observation())
    assert not (tmp_path / ".gitignore").exists()
    assert value_of(Store(tmp_path).get(step().key)) == 1.0


def test_a_store_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    """The message names the path and the option that changes it."""
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "inner"):
        with pytest.raises(StoreError, match=re.escape(str(root)) + ".*--quantgate-store DIR"):
            Store(root)


def test_a_store_that_cannot_be_made_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No permission to make the folder is said before anything is measured."""

    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(StoreError, match=r"Permission denied.*--quantgate-store DIR"):
        Store(tmp_path / "store")


@pytest.mark.parametrize(
    "name", ["with space", "Käse ☃", "x" * 255, "/".join(["deep" * 20] * 8), "new\nline"]
)
def test_odd_paths_work(tmp_path: Path, name: str) -> None:
    """36: blanks, other scripts, long names and long paths are paths like others."""
    store = Store(tmp_path / name)
    store.put(step(), observation())
    assert value_of(Store(tmp_path / name).get(step().key)) == 1.0


@pytest.mark.parametrize("name", ["x" * 256, "nul\0"])
def test_impossible_paths_are_an_error(tmp_path: Path, name: str) -> None:
    """36: what the system refuses is one error that names the option."""
    with pytest.raises(StoreError, match="--quantgate-store DIR"):
        Store(tmp_path / name)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o644)])
def test_entries_are_never_writable_by_others(tmp_path: Path, umask: int, mode: int) -> None:
    """41: entries have the mode 0644, less what the umask takes."""
    before = os.umask(umask)
    try:
        store = Store(tmp_path / "store")
        store.put(step(), observation())
    finally:
        os.umask(before)
    assert entry_of(store).stat().st_mode & 0o777 == mode


def test_an_older_schema_is_left_alone(tmp_path: Path) -> None:
    """27: folders of other versions are neither read nor touched, and an old one is no news."""
    (tmp_path / "v0").mkdir()
    (tmp_path / "v0" / "x").write_text("old")
    Store(tmp_path).put(step(), observation())
    assert (tmp_path / "v0" / "x").read_text() == "old"


def test_a_newer_schema_is_left_alone_and_said_once(tmp_path: Path) -> None:
    """28: a newer version's entries are ignored, untouched, with one warning."""
    (tmp_path / "v99").mkdir()
    (tmp_path / "v99" / "x").write_text("new")
    with pytest.warns(StoreWarning, match="ignoring v99/") as caught:
        store = Store(tmp_path)
        store.put(step(), observation())
        store.prune(0)
    assert len(caught) == 1
    assert (tmp_path / "v99" / "x").read_text() == "new"


def test_a_read_only_store_reads_and_warns_once(store: Store) -> None:
    """13, 34: a shared store is never written, not even to put something aside; the run goes on."""
    store.put(step(), observation())
    shared = Store(store.root, writable=False)
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    assert value_of(shared.get(step().key)) == 1.0
    with pytest.warns(StoreWarning, match="read-only") as caught:
        shared.put(step(1), observation())
        shared.put(step(2), observation())
    assert len(caught) == 1
    with shared.lock(step().key) as held:
        assert not held
    with pytest.raises(StoreError, match="read-only"):
        shared.build_checkpoint(KEY, lambda folder: None, {})
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before


def test_a_read_only_store_may_be_missing(tmp_path: Path) -> None:
    """A shared store that nobody filled yet is empty, and is not made."""
    assert Store(tmp_path / "none", writable=False).get(step().key) is None
    assert not (tmp_path / "none").exists()


def test_layers_read_both_and_write_the_front(tmp_path: Path) -> None:
    """A run reads what continuous integration shares and keeps its own beside it."""
    Store(tmp_path / "back").put(step(1), observation(1.0))
    Store(tmp_path / "back").build_checkpoint(KEY, write_weights, {})
    front, back = Store(tmp_path / "front"), Store(tmp_path / "back", writable=False)
    both = Layered(front, back)
    both.put(step(2), observation(2.0))
    both.put(step(1), observation(3.0))
    assert [value_of(both.get(step(n).key)) for n in (1, 2, 3)] == [3.0, 2.0, None]
    assert value_of(back.get(step(1).key)) == 1.0
    assert len(list(both.entries())) == 2
    assert both.written(step(1).key) == front.written(step(1).key) > 0
    assert both.checkpoint(KEY) == both.build_checkpoint(KEY, unwanted, {}) == back.checkpoint(KEY)
    assert both.checkpoint_record(KEY) == back.checkpoint_record(KEY) is not None
    with both.lock(KEY) as held:
        assert held


def test_entries_are_listed_with_their_steps(store: Store) -> None:
    """What the store holds can be shown: key, step, size and time."""
    for number in range(3):
        store.put(step(number), observation(number))
    (entry_of(store).parent / "broken.obs").write_text("x")
    listed = {item.key: item for item in store.entries()}
    assert listed.keys() == {step(number).key for number in range(3)}
    one = listed[step(1).key]
    assert (one.step, one.size) == (step(1), entry_of(store, 1).stat().st_size)
    assert abs(one.written - time.time()) < 60


def test_prune_removes_what_is_old(store: Store) -> None:
    """Only what was written before the limit goes."""
    store.put(step(1), observation())
    store.put(step(2), observation())
    os.utime(entry_of(store, 1), (0, 0))
    assert store.prune(3600) == 1
    assert [store.get(step(n).key) is None for n in (1, 2)] == [True, False]


def write_weights(folder: Path) -> None:
    """Write a checkpoint of two files, one in a subfolder."""
    (folder / "weights").write_bytes(b"12345678")
    (folder / "sub").mkdir()
    (folder / "sub" / "config.json").write_text("{}")


def unwanted(folder: Path) -> None:
    """Fail: the checkpoint is there already."""
    raise AssertionError(f"built again in {folder}")


def test_a_checkpoint_is_built_once(store: Store) -> None:
    """The second call, and another store on the same folder, find what the first one built."""
    made = store.build_checkpoint(KEY, write_weights, {"recipe": "r"})
    assert (made / "weights").read_bytes() == b"12345678"
    assert store.build_checkpoint(KEY, unwanted, {}) == made
    assert Store(store.root).checkpoint(KEY) == made
    record = store.checkpoint_record(KEY)
    assert record is not None
    assert record["about"] == {"recipe": "r"}
    assert [name for name, _, _ in record["files"]] == ["sub/config.json", "weights"]  # type: ignore[misc, union-attr]
    assert temporaries(store) == []


@pytest.mark.parametrize("theirs", ["whole", "damaged"])
def test_two_who_build_at_once(store: Store, theirs: str) -> None:
    """Where no lock stopped another runner, its checkpoint is kept if it is whole, else ours takes the place."""
    other = Store(store.root, lock_timeout=0.05)

    def meanwhile(folder: Path) -> None:
        write_weights(folder)
        (folder / "ours").write_text("")
        with pytest.warns(StoreWarning, match="holds it for more than"):
            made = other.build_checkpoint(KEY, write_weights, {})
        if theirs == "damaged":
            (made / "weights").write_bytes(b"8765432")

    if theirs == "damaged":
        with pytest.warns(StoreWarning, match="damaged checkpoint"):
            made = store.build_checkpoint(KEY, meanwhile, {})
    else:
        made = store.build_checkpoint(KEY, meanwhile, {})
    assert (made / "ours").exists() == (theirs == "damaged")
    assert (made / "weights").read_bytes() == b"12345678"
    assert store.checkpoint(KEY) == made
    assert temporaries(store) == []


def test_a_checkpoint_that_vanishes_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cleaner that empties the store while it is filled gives one line, not a folder that is not there."""
    from pytest_quantgate.store import shelf

    monkeypatch.setattr(shelf, "sync_directory", lambda folder: shutil.rmtree(folder / KEY))
    with pytest.raises(StoreError, match="vanished while it was made; run again"):
        store.build_checkpoint(KEY, write_weights, {})


def test_the_content_of_a_checkpoint_has_a_digest(store: Store) -> None:
    """Equal files give an equal digest under another key; one other byte gives another."""
    other = "b" * 64
    for key, extra in ((KEY, b""), (other, b""), ("c" * 64, b"!")):

        def build(folder: Path, extra: bytes = extra) -> None:
            (folder / "weights").write_bytes(b"12345678" + extra)

        store.build_checkpoint(key, build, {"key": key})
    content = [store.checkpoint_record(key)["content"] for key in (KEY, other, "c" * 64)]  # type: ignore[index]
    assert content[0] == content[1] != content[2]


def test_a_build_that_fails_leaves_nothing(store: Store) -> None:
    """What the quantizer raises comes through, and its half checkpoint is gone."""

    def broken(folder: Path) -> None:
        write_weights(folder)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        store.build_checkpoint(KEY, broken, {})
    assert temporaries(store) == []
    assert store.checkpoint(KEY) is None
    assert store.checkpoint_record(KEY) is None
    assert store.build_checkpoint(KEY, write_weights, {}).is_dir()


@pytest.mark.parametrize(
    "build", [lambda folder: None, lambda folder: (folder / "x").symlink_to("/etc/passwd")]
)
def test_an_empty_or_linked_checkpoint_is_refused(store: Store, build: Any) -> None:
    """A checkpoint consists of plain files, at least one."""
    with pytest.raises(StoreError, match=r"wrote nothing|plain files"):
        store.build_checkpoint(KEY, build, {})
    assert temporaries(store) == []


def test_the_record_outlives_the_checkpoint(store: Store) -> None:
    """After pruning the weights, their content's digest is still known, so observations of them still count."""
    store.build_checkpoint(KEY, write_weights, {})
    record = store.checkpoint_record(KEY)
    assert store.prune(-60) == 1
    assert store.checkpoint(KEY) is None
    assert store.checkpoint_record(KEY) == record is not None
    assert temporaries(store) == []


@pytest.mark.parametrize("damage", ["changed", "grown", "missing", "added", "record", "link"])
def test_a_damaged_checkpoint_is_made_again(store: Store, damage: str) -> None:
    """A checkpoint that is not what was written is put aside, said, and built again."""
    made = store.build_checkpoint(KEY, write_weights, {})
    file = made / "weights"
    if damage == "changed":
        stamp = file.stat()
        file.write_bytes(b"87654321")
        os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    elif damage == "grown":
        file.write_bytes(b"123456789")
    elif damage == "missing":
        file.unlink()
    elif damage == "added":
        (made / "extra.py").write_text("")
    elif damage == "record":
        (made / "quantgate-record.json").write_text("{}")
    else:
        file.unlink()
        file.symlink_to("/etc/passwd")
    with pytest.warns(StoreWarning, match=KEY + r": damaged checkpoint"):
        assert store.checkpoint(KEY) is None
    assert (store.build_checkpoint(KEY, write_weights, {}) / "weights").read_bytes() == b"12345678"
    assert store.checkpoint(KEY) is not None


def test_a_lock_is_reentrant_and_makes_others_wait(store: Store) -> None:
    """Within one holder it nests; a second holder gets it only after the first has left."""
    key = step().key
    other = Store(store.root, lock_timeout=0.05)
    with store.lock(key) as outer, store.lock(key) as inner:
        assert (outer, inner) == (True, True)
        with pytest.warns(StoreWarning), other.lock(key) as held:
            assert not held
    with other.lock(key) as held:
        assert held
