"""Tests of the store against kills, full disks, damaged bytes, hostile bytes, dead locks and other processes.

The number before a docstring's colon is the fault's number in the list of faults that the store must survive.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import hashlib
import json
import os
import shutil
import signal
import struct
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from store_values import entry_of, in_child, killing, observation, step, temporaries, value_of

from pytest_quantgate.errors import StoreError
from pytest_quantgate.store import Store, StoreWarning
from pytest_quantgate.store.entry import MAGIC
from pytest_quantgate.store.quarantine import ABANDONED, KEPT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = step().key
CHECKPOINT = "a" * 64
POINTS = ["open", "write", "fsync", "close", "replace"]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: no test here cuts the power, and a busy disk takes 50 ms per call."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A fresh store."""
    return Store(tmp_path / "store")


def build(folder: Path) -> None:
    """Write a checkpoint of one file."""
    (folder / "weights").write_bytes(b"12345678")


def failing(number: int, real: Callable[..., Any] | None = None, calls: int = 0) -> Callable[..., Any]:
    """Return a function that fails with this error number, after so many calls that do what `real` does."""
    left = calls

    def fail(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if real is not None and left >= 0:
            return real(*arguments, **options)
        raise OSError(number, os.strerror(number))

    return fail


# --- killed


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_call_leaves_the_old_or_the_new(store: Store, point: str, *, after: bool) -> None:
    """1, 2, 3: kill -9 at each system call of a put: readers see a whole value, and the next put works."""
    store.put(step(), observation(1.0, size=600_000))
    real, seen = getattr(os, point), []

    def work(nth: int) -> None:
        setattr(os, point, killing(real, nth, after=after))
        Store(store.root).put(step(), observation(2.0, size=600_000))

    for nth in range(1, 40):
        status = in_child(lambda nth=nth: work(nth))
        assert status in (0, -signal.SIGKILL)
        seen.append(value_of(Store(store.root).get(KEY)))
        if status == 0:
            break
    assert set(seen) <= {1.0, 2.0}
    assert len(seen) > 1, "no kill happened"
    assert seen[-1] == 2.0
    if point in ("open", "write"):
        assert seen[0] == 1.0


@pytest.mark.parametrize("point", ["open", "write", "fsync", "replace", "mkdir", "rename"])
def test_a_kill_while_a_checkpoint_is_built_leaves_none_or_all(store: Store, point: str) -> None:
    """1, 2, 3: kill -9 at each call: the checkpoint is missing or whole, and can be built again."""
    real = getattr(os, point)

    def work(nth: int) -> None:
        setattr(os, point, killing(real, nth, after=False))
        Store(store.root).build_checkpoint(CHECKPOINT, build, {})

    for nth in range(1, 60):
        status = in_child(lambda nth=nth: work(nth))
        found = Store(store.root).checkpoint(CHECKPOINT)
        assert found is None or (found / "weights").read_bytes() == b"12345678"
        if status == 0:
            assert found is not None
            break
        assert (Store(store.root).build_checkpoint(CHECKPOINT, build, {}) / "weights").is_file()
        shutil.rmtree(store.root / "v1" / "checkpoints" / CHECKPOINT)
    else:
        pytest.fail("every run was killed")


def test_what_a_killed_process_left_is_swept_by_age(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """1, 26: orphans go when nothing has changed them for long by the file system's clock; no mtime can fool it."""
    store.put(step(), observation())
    folder = entry_of(store).parent
    checkpoints = store.root / "v1" / "checkpoints"
    for orphan in (folder / ".tmp-1", checkpoints / ".tmp-2" / "weights"):
        orphan.parent.mkdir(parents=True, exist_ok=True)
        orphan.write_bytes(b"half")
        os.utime(orphan, (0, 0))
    os.utime(checkpoints / ".tmp-2", (0, 0))
    Store(store.root).put(step(1), observation())
    assert len(temporaries(store)) == 2, "fresh work of another process was removed"
    monkeypatch.setattr("pytest_quantgate.store.quarantine.ABANDONED", -1.0)
    Store(store.root).put(step(1), observation())
    assert temporaries(store) == []
    assert ABANDONED > 86400


@pytest.mark.parametrize("shift", [-7200.0, 7200.0, -1e9, 1e9])
def test_a_wrong_clock_removes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch, shift: float) -> None:
    """26: with our clock hours or decades off, fresh work stays and entries are found."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + shift)
    store.put(step(), observation())
    (entry_of(store).parent / ".tmp-1").write_bytes(b"half")
    os.utime(entry_of(store), (real() + shift, real() + shift))
    Store(store.root).put(step(1), observation())
    assert len(temporaries(store)) == 1
    assert value_of(store.get(KEY)) == 1.0


@pytest.mark.parametrize("point", POINTS)
def test_an_interrupt_leaves_no_temporary_file(
    store: Store, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """38: Ctrl-C in the middle of a put goes through, and leaves the old value and nothing else."""
    store.put(step(), observation(1.0))
    real = getattr(os, point)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if point == "close":
            real(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, point, interrupted)
        store.put(step(), observation(2.0))
    assert temporaries(store) == []
    assert value_of(store.get(KEY)) == 1.0


# --- damaged


def damaged(store: Store, content: bytes) -> str:
    """Overwrite the entry, read it, and return the one warning; it must be a miss and go to quarantine."""
    path = entry_of(store)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with pytest.warns(StoreWarning) as caught:
        assert Store(store.root).get(KEY) is None
    assert not path.exists()
    assert [kept.read_bytes() for kept in (store.root / "v1" / "quarantine").iterdir()][-1] == content
    message = str(caught[0].message)
    assert len(caught) == 1
    assert str(path) in message
    return message


@pytest.fixture
def sound(store: Store) -> bytes:
    """The bytes of a sound entry, which is in the store."""
    store.put(step(), observation(size=60))
    return entry_of(store).read_bytes()


def test_a_zero_filled_tail_is_a_miss(store: Store, sound: bytes) -> None:
    """4: what a power loss leaves is noticed."""
    assert "digest" in damaged(store, sound[:-600] + bytes(600))


def test_every_truncation_is_a_miss(store: Store, sound: bytes) -> None:
    """5, 6: an entry cut anywhere, to nothing as well, is noticed."""
    for length in (0, 1, 15, 16, 23, 24, 55, 56, *range(57, len(sound), 97), len(sound) - 1):
        shutil.rmtree(store.root / "v1" / "quarantine", ignore_errors=True)
        damaged(store, sound[:length])


def test_every_flipped_bit_is_a_miss_that_names_both_digests(store: Store, sound: bytes) -> None:
    """7: one bit at every 97th offset; the message holds the digest that was written and the one that was found."""
    for offset in range(0, len(sound), 97):
        shutil.rmtree(store.root / "v1" / "quarantine", ignore_errors=True)
        changed = bytearray(sound)
        changed[offset] ^= 1 << (offset % 8)
        message = damaged(store, bytes(changed))
        assert hashlib.sha256(changed[:-32]).hexdigest() in message
        assert bytes(changed[-32:]).hex() in message


def test_trailing_bytes_are_a_miss(store: Store, sound: bytes) -> None:
    """5: an entry that grew is not the one that was written."""
    damaged(store, sound + b"\0")


def test_another_keys_entry_is_a_miss(store: Store, sound: bytes) -> None:
    """8: a sound entry under a wrong name is put aside."""
    store.put(step(1), observation(5.0))
    assert step(1).key in damaged(store, entry_of(store, 1).read_bytes())
    assert value_of(store.get(step(1).key)) == 5.0


@pytest.mark.parametrize(
    "make", [Path.mkdir, os.mkfifo, lambda p: p.symlink_to("/etc/passwd"), lambda p: p.symlink_to(p)]
)
def test_what_is_no_file_is_a_miss(store: Store, make: Callable[[Path], Any]) -> None:
    """9: folders, fifos and links are neither followed nor waited for; the next put works."""
    path = entry_of(store)
    path.parent.mkdir(parents=True)
    make(path)
    with pytest.warns(StoreWarning, match="not a regular file|Is a directory"):
        assert store.get(KEY) is None
    store.put(step(), observation(2.0))
    assert value_of(store.get(KEY)) == 2.0


def test_the_quarantine_is_bounded(store: Store) -> None:
    """42: it keeps the last few; of damaged checkpoints only the last."""
    path = entry_of(store)
    path.parent.mkdir(parents=True)
    with pytest.warns(StoreWarning):
        for number in range(KEPT + 9):
            path.write_bytes(b"%d" % number)
            assert Store(store.root).get(KEY) is None
        kept = sorted((store.root / "v1" / "quarantine").iterdir())
        assert [item.read_bytes() for item in kept] == [b"%d" % number for number in range(9, KEPT + 9)]
        for _ in range(3):
            (store.build_checkpoint(CHECKPOINT, build, {}) / "weights").unlink()
            assert Store(store.root).checkpoint(CHECKPOINT) is None
    assert sum(item.is_dir() for item in (store.root / "v1" / "quarantine").iterdir()) == 1


def test_a_read_only_store_leaves_damage_where_it_is(store: Store, sound: bytes) -> None:
    """13: what cannot be put aside is a miss as well."""
    entry_of(store).write_bytes(b"x")
    with pytest.warns(StoreWarning, match="left where it is"):
        assert Store(store.root, writable=False).get(KEY) is None
    assert entry_of(store).read_bytes() == b"x"


# --- hostile


def signed(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """Return an entry with a right digest over whatever it holds."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    start = MAGIC + struct.pack("<Q", len(text) if length is None else length) + text
    start += bytes(-len(start) % 64) + data
    return start + hashlib.sha256(start).digest()


def honest(**fields: Any) -> dict[str, Any]:
    """Return the header of an empty observation, with some fields replaced."""
    return {"schema": 1, "key": KEY, "step": step().to_json(), "facts": {}, "arrays": [], **fields}


def test_the_hostile_entries_differ_from_a_sound_one_by_their_fault(store: Store) -> None:
    """The positive control: without a fault such an entry is read."""
    path = entry_of(store)
    path.parent.mkdir(parents=True)
    path.write_bytes(
        signed(honest(facts={"x": 1}, arrays=[["a", "<f4", [2], 0, 8]]), struct.pack("<2f", 1, 2) + bytes(56))
    )
    found = store.get(KEY)
    assert found is not None
    assert found.arrays["a"].tolist() == [1, 2]


HOSTILE = {
    "length 2^63": signed(honest(), length=2**63),
    "length past end": signed(honest(), length=10**6),
    "length 0": signed(honest(), length=0),
    "deep": signed(b"[" * 1_000_000),
    "not JSON": signed(b"\x80\x04\x95pickle"),
    "list": signed([1, 2]),
    "nothing": signed({}),
    "key twice": signed(json.dumps(honest())[:-1].encode() + b',"facts":{}}'),
    "NaN": signed(honest(facts={"x": float("nan")})),
    "other schema": signed(honest(schema=2)),
    "other key": signed(honest(key="b" * 64)),
    "other step": signed(honest(step=step(1).to_json())),
    "step is text": signed(honest(step="x")),
    "facts are text": signed(honest(facts="x")),
    "facts are a number": signed(honest(facts=1)),
    "arrays are a number": signed(honest(arrays=3)),
    "array is short": signed(honest(arrays=[["a", "<f8"]])),
    "object dtype": signed(honest(arrays=[["a", "|O", [1], 0, 8]]), bytes(64)),
    "dtype list": signed(honest(arrays=[["a", ["<f8"], [1], 0, 8]]), bytes(64)),
    "huge shape": signed(honest(arrays=[["a", "<f8", [1 << 40, 1 << 40], 0, 8]]), bytes(64)),
    "negative shape": signed(honest(arrays=[["a", "<f8", [-1], 0, -8]]), bytes(64)),
    "float shape": signed(honest(arrays=[["a", "<f8", [1.0], 0, 8]]), bytes(64)),
    "33 dimensions": signed(honest(arrays=[["a", "<f8", [1] * 33, 0, 8]]), bytes(64)),
    "other size": signed(honest(arrays=[["a", "<f8", [2], 0, 8]]), bytes(64)),
    "past end": signed(honest(arrays=[["a", "<f8", [100], 0, 800]]), bytes(64)),
    "offset": signed(honest(arrays=[["a", "<f8", [1], -64, 8]]), bytes(64)),
    "name twice": signed(honest(arrays=[["a", "<f8", [1], 0, 8], ["a", "<f8", [1], 64, 8]]), bytes(128)),
    "name list": signed(honest(arrays=[[["a"], "<f8", [1], 0, 8]]), bytes(64)),
    "more data": signed(honest(), bytes(64)),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_entries_are_a_miss(store: Store, case: str) -> None:
    """35: a right digest over wrong lengths, bombs or other keys is a miss, at once and without an allocation."""
    began = time.monotonic()
    damaged(store, HOSTILE[case])
    assert list(store.entries()) == []
    assert time.monotonic() - began < 2


# --- full, forbidden, failing


@pytest.mark.parametrize(
    "number",
    [
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EROFS,
        errno.EACCES,
        errno.EMFILE,
        errno.EXDEV,
    ],
)
@pytest.mark.parametrize("point", POINTS)
def test_a_put_that_fails_is_one_warning(
    store: Store, monkeypatch: pytest.MonkeyPatch, point: str, number: int
) -> None:
    """10, 11, 12, 13, 14, 25, 40: the run goes on uncached, nothing is left over, the old value stays."""
    store.put(step(), observation(1.0))
    real = getattr(os, point)
    replacement = failing(number)
    if point == "close":

        def replacement(descriptor: int) -> None:
            real(descriptor)
            raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch, pytest.warns(StoreWarning) as caught:
        patch.setattr(os, point, replacement)
        store.put(step(), observation(2.0))
        store.put(step(1), observation(2.0))
    assert len(caught) == 1
    assert "cannot keep measurements" in str(caught[0].message)
    assert "--quantgate-store DIR" in str(caught[0].message)
    assert temporaries(store) == []
    assert value_of(store.get(KEY)) == 1.0
    store.put(step(), observation(3.0))
    assert value_of(store.get(KEY)) == 3.0


def test_a_disk_that_fills_up_leaves_no_half_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """10: the error may come after some of the bytes were written."""
    with monkeypatch.context() as patch, pytest.warns(StoreWarning, match="No space left"):
        patch.setattr(os, "write", failing(errno.ENOSPC, os.write, calls=2))
        store.put(step(), observation())
    assert temporaries(store) == []
    assert store.get(KEY) is None


def test_few_descriptors_are_one_warning(store: Store) -> None:
    """40: with no descriptor left the run goes on."""

    def work() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            store.put(step(), observation())
            assert store.get(KEY) is None
            with store.lock(KEY):
                pass
        assert {item.category for item in caught} == {StoreWarning}

    assert in_child(work) == 0


def test_a_file_size_limit_is_one_warning(store: Store) -> None:
    """12: a quota that cuts the write short leaves nothing."""

    def work() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        with pytest.warns(StoreWarning, match="File too large"):
            store.put(step(), observation(size=100_000))

    assert in_child(work) == 0
    assert temporaries(store) == []
    assert store.get(KEY) is None


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_read_that_fails_is_a_miss(store: Store, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """11, 14, 23: an entry that cannot be opened or read counts as missing and stays where it is."""
    store.put(step(), observation())
    for point in ("open", "readv"):
        with monkeypatch.context() as patch, pytest.warns(StoreWarning, match="cannot be read") as caught:
            fresh = Store(store.root)
            patch.setattr(os, point, failing(number))
            assert fresh.get(KEY) is None
            assert fresh.get(KEY) is None
        assert len(caught) == 1
    assert value_of(store.get(KEY)) == 1.0


def test_an_entry_that_vanishes_is_a_miss(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """23: deleted between being found and being opened."""
    store.put(step(), observation())
    real = os.open

    def vanish(path: Any, *arguments: Any, **options: Any) -> int:
        Path(path).unlink(missing_ok=True)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", vanish)
    assert store.get(KEY) is None


def test_a_full_disk_has_no_place_for_a_checkpoint(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """10: a checkpoint cannot be kept in memory instead: one error that names the option."""
    with monkeypatch.context() as patch, pytest.raises(StoreError, match=r"no room.*--quantgate-store DIR"):
        patch.setattr(os, "replace", failing(errno.ENOSPC))
        store.build_checkpoint(CHECKPOINT, build, {})
    assert temporaries(store) == []

    def full(folder: Path) -> None:
        build(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreError, match="no room"):
        store.build_checkpoint(CHECKPOINT, full, {})
    assert temporaries(store) == []


def test_a_passing_fault_does_not_condemn_a_checkpoint(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """11: gigabytes of weights that cannot be read just now are not thrown away."""
    made = store.build_checkpoint(CHECKPOINT, build, {})
    with monkeypatch.context() as patch, pytest.warns(StoreWarning, match="cannot be read"):
        patch.setattr(os, "open", failing(errno.EIO))
        assert Store(store.root).checkpoint(CHECKPOINT) is None
    assert store.checkpoint(CHECKPOINT) == made


def test_a_folder_that_was_deleted_is_made_again(store: Store) -> None:
    """15: the whole store may vanish between two calls."""
    store.put(step(), observation(1.0))
    with store.lock(KEY):
        shutil.rmtree(store.root)
        assert store.get(KEY) is None
        store.put(step(), observation(2.0))
    assert value_of(store.get(KEY)) == 2.0
    assert store.build_checkpoint(CHECKPOINT, build, {}).is_dir()


def test_a_reader_keeps_what_it_has_open(store: Store) -> None:
    """24: arrays that were read stay good when the entry is pruned."""
    store.put(step(), observation(7.0, size=500_000))
    found = store.get(KEY)
    store.prune(-60)
    assert store.get(KEY) is None
    assert value_of(found) == 7.0


# --- locks


@pytest.fixture
def holder(store: Store) -> Iterator[int]:
    """The id of another process that holds the lock of KEY until it is killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with Store(store.root).lock(KEY):
            os.write(writer, b"x")
            time.sleep(60)
        os._exit(0)
    os.read(reader, 1)
    yield child
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)


def test_a_killed_holder_frees_its_lock(store: Store, holder: int) -> None:
    """17: the next one proceeds at once."""
    os.kill(holder, signal.SIGKILL)
    began = time.monotonic()
    with store.lock(KEY) as held:
        assert held
    assert time.monotonic() - began < 5


def test_a_stopped_holder_is_named_and_then_passed(store: Store, holder: int) -> None:
    """18: after the timeout the warning says which process on which machine, and the work is done anyway."""
    os.kill(holder, signal.SIGSTOP)
    waiting = Store(store.root, lock_timeout=0.2)
    with (
        pytest.warns(StoreWarning, match=f"process {holder} on {os.uname().nodename}"),
        waiting.lock(KEY) as held,
    ):
        assert not held
        waiting.put(step(), observation())
    assert value_of(store.get(KEY)) == 1.0


def test_a_deleted_lock_file_costs_work_only(store: Store, holder: int) -> None:
    """16: two may now hold it; both put, and the entry is whole."""
    shutil.rmtree(store.root / "v1" / "locks")
    with store.lock(KEY) as held:
        assert held
        store.put(step(), observation(1.0))
        Store(store.root).put(step(), observation(1.0))
    assert value_of(store.get(KEY)) == 1.0


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EIO])
def test_no_locking_is_one_warning(store: Store, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """20: a file system without flock is said once; no lock file is taken for a lock instead."""
    monkeypatch.setattr(fcntl, "flock", failing(number))
    with pytest.warns(StoreWarning, match="no locking here") as caught:
        for key in (KEY, CHECKPOINT):
            with store.lock(key) as held:
                assert not held
                store.put(step(), observation())
    assert len(caught) == 1
    assert value_of(store.get(KEY)) == 1.0


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_lock_that_cannot_be_written_is_one_warning(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """13: a folder that became read-only cannot hold a lock file."""
    (store.root / "v1" / "locks").mkdir(parents=True)
    with monkeypatch.context() as patch, pytest.warns(StoreWarning, match="no locking here"):
        patch.setattr(os, "open", failing(number))
        with store.lock(KEY) as held:
            assert not held


def test_a_child_does_not_free_its_parents_lock(store: Store) -> None:
    """39: a worker that is forked while the lock is held (a data loader) and drops what it inherited leaves it alone."""

    def drop() -> None:
        store._locks._locks.clear()
        gc.collect()

    with store.lock(KEY):
        assert in_child(drop) == 0
        assert in_child(lambda: _must_wait(store)) == 0
    with store.lock(KEY) as held:
        assert held


def _must_wait(store: Store) -> None:
    with pytest.warns(StoreWarning, match="holds it"), Store(store.root, lock_timeout=0.1).lock(KEY) as held:
        assert not held


COUNT = 12


def race(store: Store, work: Callable[[int], None], processes: int = 4) -> None:
    """Run `work(number)` in several processes at once; each must succeed."""
    children = []
    for number in range(processes):
        child = os.fork()
        if child == 0:
            try:
                work(number)
            except BaseException as error:  # noqa: BLE001  whatever it was, the parent must see it
                sys.stderr.write(f"{error!r}\n")
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * processes


def test_readers_never_see_a_mixture(store: Store) -> None:
    """22: four processes write and read one entry at once; every read is whole."""
    store.put(step(), observation(9.0))

    def work(number: int) -> None:
        own = Store(store.root)
        for turn in range(COUNT):
            if number < 2:
                own.put(step(), observation(10.0 * number + turn, size=50_000))
            assert value_of(own.get(KEY)) is not None

    with warnings.catch_warnings():
        warnings.simplefilter("error", StoreWarning)
        race(store, work)
    assert temporaries(store) == []


@pytest.mark.parametrize("locking", [True, False], ids=["flock", "no-op"])
def test_many_builders_make_one_checkpoint(
    store: Store, monkeypatch: pytest.MonkeyPatch, *, locking: bool
) -> None:
    """19, 21: with locks it is built once; where flock does nothing perhaps more often, and never wrongly."""
    if not locking:
        monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    log = store.root / "log"

    def work(number: int) -> None:
        def slow(folder: Path) -> None:
            with log.open("a") as file:
                file.write(f"{number}\n")
            time.sleep(0.1)
            build(folder)

        own = Store(store.root)
        made = own.build_checkpoint(CHECKPOINT, slow, {"number": number})
        assert (made / "weights").read_bytes() == b"12345678"

    race(store, work)
    built = len(log.read_text().splitlines())
    assert built == 1 if locking else 1 <= built <= 4
    found = store.checkpoint(CHECKPOINT)
    assert found is not None
    assert temporaries(store) == []
    assert not (store.root / "v1" / "quarantine").exists()


def test_pruning_beside_a_reader_is_a_miss_at_worst(store: Store) -> None:
    """24: one process prunes in a loop while others write and read: whole, or missing."""

    def work(number: int) -> None:
        own = Store(store.root)
        for turn in range(COUNT):
            if number == 0:
                own.prune(-60)
            else:
                own.put(step(), observation(turn))
                value_of(own.get(KEY))

    race(store, work)
