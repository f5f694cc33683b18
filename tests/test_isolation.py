"""Models in processes of their own: the same figures, and whatever kills or holds one is one failed gate."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import fakes
import numpy as np
import pytest

from pytest_quantgate.errors import MissingExtraError, NotMeasurableError, ObservationError, WorkerError
from pytest_quantgate.executors import device, local, process, remote
from pytest_quantgate.interfaces import Choices, Completion, Decoding, Prompt, TokenScores, Trace, Window
from pytest_quantgate.spec import ModelSpec, Recipe

HERE = Path(__file__).parent
PLAIN = """
from pytest_quantgate import quantgate

@quantgate("kld.mean < 0.1 and tokens_per_second > 1")
def test_release():
    pass
"""
ASKING = """
def test_native(quantized_model):
    assert quantized_model.model
"""


def fake(**options: object) -> ModelSpec:
    return ModelSpec("v", "v", "w", backend="fake", options=tuple(sorted(options.items())), isolated=True)


@pytest.fixture
def loaded():
    """Load fakes in processes of their own, and end these in the end."""
    models = []

    def load(limit: float = 30, **options: object) -> remote.RemoteModel:
        model = remote.load("fakes:load", fake(**options), limit, allow_code=False, allow_pickle=False)
        models.append(model)
        return model

    yield load
    for model in models:
        model.close()


def is_gone(pid: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


# --- the same model, elsewhere


def test_another_process_gives_the_same_scores(loaded):
    windows = [Window(np.random.default_rng(seed).integers(0, 64, 20), start=3) for seed in range(5)]
    here = list(fakes.load(fake()).score(windows, top_k=4))
    there = list(loaded().score(windows, top_k=4))
    for one, other in zip(here, there, strict=True):
        for name in ("logprob", "top1", "ids", "at", "floor"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
            assert getattr(one, name).dtype == getattr(other, name).dtype


def test_ids_that_were_asked_for_arrive(loaded):
    window = Window(np.arange(6))
    asked = np.arange(10).reshape(5, 2)
    assert np.array_equal(next(loaded().score([window], at=[asked])).ids, asked)


def test_everything_else_is_the_same(loaded):
    here, there = fakes.load(fake(speed=50.0)), loaded(speed=50.0)
    assert (there.vocab_size, there.max_length, there.bos_id, there.load_seconds) == (64, 4096, None, 0.25)
    assert np.array_equal(there.encode("some text"), here.encode("some text"))
    assert np.array_equal(there.encode_chat([{"role": "user", "content": "x"}]), here.encode("x"))
    assert there.decode([1, 2]) == here.decode([1, 2])
    assert np.array_equal(there.generate([1], 5).seconds, here.generate([1], 5).seconds)
    assert there.findings() == here.findings()
    assert there.memory() == here.memory()


def test_a_second_pass_does_not_mix_with_the_first(loaded):
    model = loaded()
    first = model.score([Window(np.arange(5)), Window(np.arange(5))])
    next(first)
    next(model.score([Window(np.arange(7))]))
    with pytest.raises(ObservationError, match="another had begun"):
        next(first)


def test_an_engines_own_objects_stay_where_they_are(loaded):
    model = loaded()
    for name in ("native", "tokenizer"):
        with pytest.raises(NotMeasurableError, match="cannot leave it; leave isolate"):
            getattr(model, name)


def test_values_keep_their_types_on_the_way():
    import socket

    from pytest_quantgate.executors.wire import Channel

    one, other = map(Channel, socket.socketpair())
    floats, ids = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(3)
    sent = [
        Window(ids, 2),
        TokenScores(floats[0], ids, ids[:, None], floats, np.zeros((0,), np.float32)),
        Trace(ids, floats[0]),
        Choices(ids, (ids, ids[:1])),
        Prompt(ids, 3),
        Decoding(4, ("\n", "stop"), 0.5, 0.9, 7),
        Completion("text", 3, "stop"),
        {"a": [1, 2.5, None, True], "b": np.float64(1.5)},
        fake(damage=0.5),
    ]
    one.send(sent)
    got = other.receive(5)
    assert [type(value) for value in got] == [type(value) for value in sent]
    assert np.array_equal(got[1].at, floats)
    assert got[1].floor.shape == (0,)
    assert got[3].continuations[1].tolist() == [0]
    assert got[5:] == sent[5:]
    with pytest.raises(TypeError, match="array of objects"):
        one.send(np.array([object()]))
    with pytest.raises(TimeoutError):
        other.receive(0.01)
    one.close()
    with pytest.raises(EOFError):
        other.receive(5)
    other.close()


# --- what may become of a process


@pytest.mark.parametrize("of", ["SIGKILL", "SIGSEGV", "SIGABRT", "SIGTERM"])
@pytest.mark.parametrize("stage", ["load", "score", "generate"])
def test_a_death_is_one_error_with_the_last_lines(loaded, stage, of):
    doing = {"load": "loading", "score": "scoring", "generate": "generating"}[stage]
    with pytest.raises(
        WorkerError, match=f"v: its process was killed by {of}.* while {doing}; its last lines"
    ) as died:
        model = loaded(dies=stage, of=of)
        list(model.score([Window(np.arange(5))] * 3))
        model.generate([1], 3)
    shown = str(died.value)
    assert "the last words" in shown or "Fatal Python error" in shown or "Current thread" in shown
    assert "\n" not in shown


def test_whoever_asks_again_hears_the_same(loaded):
    model = loaded(dies="generate")
    with pytest.raises(WorkerError, match="killed by SIGKILL"):
        model.generate([1], 3)
    with pytest.raises(WorkerError, match="killed by SIGKILL"):
        model.encode("x")


def test_a_hang_is_ended_and_shows_where_it_stood(loaded):
    with pytest.raises(
        WorkerError, match=r"no sign of life for 1 s while scoring.*worker_limit.*fakes\.py"
    ) as hung:
        list(loaded(limit=1, hangs="score").score([Window(np.arange(5))] * 3))
    assert "in meet" in str(hung.value)


def test_a_stopped_process_is_ended_too(loaded):
    model = loaded(limit=1)
    os.kill(model.worker.pid, signal.SIGSTOP)
    with pytest.raises(WorkerError, match="no sign of life"):
        model.encode("x")
    assert is_gone(model.worker.pid)


def test_one_that_does_not_take_what_it_is_sent_is_ended(loaded):
    model = loaded(limit=1)
    os.kill(model.worker.pid, signal.SIGSTOP)
    with pytest.raises(WorkerError, match="no sign of life"):
        list(model.score([Window(np.zeros(4_000_000, dtype=np.int64))]))


def test_an_unexpected_exception_does_not_end_it(loaded):
    model = loaded(stumbles="generate")
    with pytest.raises(ObservationError, match="v: ZeroDivisionError: by accident; its last lines"):
        model.generate([1], 3)
    assert model.decode([0]) == "A"


def test_our_own_errors_arrive_as_what_they_are(loaded):
    with pytest.raises(ObservationError, match=r"^v: logits are not finite$"):
        list(loaded(broken=True).score([Window(np.arange(5))]))


class OwnError(NotMeasurableError):
    """What a backend may define for itself."""


def own(spec, **allowed):
    raise OwnError("not on this machine")


def test_an_error_of_a_backends_own_arrives_as_its_nearest_known_kind():
    with pytest.raises(NotMeasurableError, match=r"^not on this machine$"):
        remote.load("test_isolation:own", fake(), 30, allow_code=False, allow_pickle=False)


def test_an_interrupt_ends_it_at_once_and_the_next_step_gets_another(loaded):
    """Else the answer to the question that was given up would be taken for that to the next."""
    held = local.Local(lambda spec: loaded(hangs="generate"))
    model = held.model(fake())
    alarm = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            model.generate([1], 3)
    finally:
        signal.signal(signal.SIGALRM, alarm)
    assert time.monotonic() - started < 3
    assert is_gone(model.worker.pid)
    with pytest.raises(WorkerError, match="v: its process was ended, since generating was interrupted"):
        model.decode([0])
    assert held.model(fake()).decode([0]) == "A"


def test_an_interrupt_in_the_progress_ends_it_too(loaded, tmp_path):
    def interrupted(done, total):
        raise KeyboardInterrupt

    (tmp_path / "calibration").write_text("some text")
    worker = process.Worker("v", "", 30)
    recipe = Recipe("gptq", (), calibration=str(tmp_path / "calibration"))
    with pytest.raises(KeyboardInterrupt):
        worker.call(
            "quantizing",
            "quantize",
            interrupted,
            reference="fakes:QUANTIZER",
            recipe=recipe,
            baseline=fake(),
            out=str(tmp_path),
        )
    assert worker.ended


def test_a_pass_that_was_left_midway_holds_nothing_beside_the_next(loaded):
    model = loaded()
    left = model.score([Window(np.arange(5)), Window(np.arange(5))])
    next(left)
    model.generate([1], 3)
    with pytest.raises(ObservationError, match="another had begun"):
        next(left)


def test_a_module_in_the_working_folder_is_not_taken_for_the_librarys(loaded, tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    assert loaded().decode([0]) == "A"


def test_more_open_files_than_select_takes(loaded):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip("this machine does not allow so many")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    with contextlib.ExitStack() as held:
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1100):
            held.enter_context(Path(os.devnull).open())
        assert loaded().decode([0]) == "A"


def test_a_script_that_starts_an_interpreter_is_told_from_one(tmp_path):
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\n{sys.executable} "$@"\nexit $?\n')
    script.chmod(0o755)
    with pytest.raises(WorkerError, match=r"exit code 1 while starting.*must be an interpreter, no script"):
        process.Worker("v", str(script), 30)


def test_a_missing_extra_keeps_its_name(monkeypatch):
    spec = fake()
    with pytest.raises(MissingExtraError, match="for a test needs an extra") as missing:
        remote.load("test_isolation:lacking", spec, 30, allow_code=False, allow_pickle=False)
    assert missing.value.extra == "gguf"


def lacking(spec, **allowed):
    raise MissingExtraError("loading it for a test", "gguf")


def test_an_interpreter_that_is_none_is_one_line():
    with pytest.raises(WorkerError, match="v: the interpreter /nowhere/python cannot be started"):
        process.Worker("v", "/nowhere/python", 5)


def test_one_that_ends_at_once_is_one_line(tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho no such module >&2; exit 3\n")
    script.chmod(0o755)
    with pytest.raises(
        WorkerError, match="ended with exit code 3 while starting; its last lines: no such module"
    ):
        process.Worker("v", str(script), 5)


def test_no_process_outlives_the_one_that_asked(tmp_path):
    code = f"""
import sys; sys.path.insert(0, {str(HERE)!r})
import test_isolation, time
from pytest_quantgate.executors import remote
model = remote.load("fakes:load", test_isolation.fake(), 30, allow_code=False, allow_pickle=False)
print(model.worker.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    parent.kill()
    parent.communicate()
    assert is_gone(pid)


def test_what_a_process_started_goes_with_it(loaded):
    model = loaded()
    child = subprocess.Popen(["sleep", "60"], start_new_session=False)
    child.kill()
    child.wait()
    group = os.getpgid(model.worker.pid)
    assert group == model.worker.pid  # so that killing the group ends its children, too
    model.close()
    assert is_gone(model.worker.pid)
    model.close()


# --- memory on the device


def test_memory_must_be_back_before_the_next_model_loads():
    answers = iter([[7], [7, 8], [8]])
    device.wait_until_free(7, "cuda:0", "v", asked=lambda: next(answers))
    assert next(answers, None) is None
    with pytest.raises(WorkerError, match="v: its process 7 has ended, but its memory on cuda is not back"):
        device.wait_until_free(7, "cuda", "v", asked=lambda: [7], seconds=0.2)
    device.wait_until_free(7, "cpu", "v", asked=lambda: [7], seconds=0.2)


# --- a session


def test_an_isolated_session_measures_the_same(study):
    study.pytester.makepyfile(PLAIN)
    study.run("--quantgate-report=here", "-k", "good").assert_outcomes(passed=1)
    study.run(
        "--quantgate-report=there", "-k", "good", "--quantgate-isolate", "--quantgate-store=b"
    ).assert_outcomes(passed=1)
    import json

    figures = [
        json.loads((study.path / folder / "report.json").read_text())["variants"][0]["figures"]["kld.mean"][
            "value"
        ]
        for folder in ("here", "there")
    ]
    assert figures[0] == figures[1] > 0


def test_isolation_is_no_part_of_the_identity(study):
    study.pytester.makepyfile(PLAIN)
    study.run("-k", "good").assert_outcomes(passed=1)
    study.log()
    study.run("-k", "good", "--quantgate-isolate").assert_outcomes(passed=1)
    assert study.log() == []


@pytest.mark.parametrize("stage", ["load", "score", "generate"])
def test_the_next_variant_runs_on(study, stage):
    study.variant("ill", seed=4, dies=f'"{stage}"', of='"SIGSEGV"', tells='"load"')
    study.tables["variants.ill"] += "\nisolate = true"
    study.variant("last", seed=6, damage=0.05)
    study.pytester.makepyfile(PLAIN)
    result = study.run("-k", "ill or last")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*ill: its process was killed by SIGSEGV*"])
    assert "INTERNALERROR" not in result.stdout.str()
    pids = [int(line.split()[1]) for line in study.log() if line.startswith("pid")]
    assert pids
    assert all(is_gone(pid) for pid in pids)
    # the store is sound, and holds what was measured
    again = study.run("-k", "last", "--quantgate-offline")
    again.assert_outcomes(passed=1)


def test_a_hang_is_one_failed_gate(study):
    study.variant("stuck", seed=4, hangs='"score"')
    study.pytester.makepyfile(PLAIN)
    result = study.run("-k", "stuck or good", "--quantgate-isolate", "--quantgate-worker-limit=2")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*stuck: its process gave no sign of life for 2 s while scoring*"])


@pytest.mark.parametrize("limit", ["0", "9" * 30])
def test_a_limit_that_no_clock_takes_is_a_usage_error(study, limit):
    study.pytester.makepyfile(PLAIN)
    result = study.run("--quantgate-isolate", f"--quantgate-worker-limit={limit}")
    result.stderr.fnmatch_lines([f"*--quantgate-worker-limit = '{limit}': write 1 to 2592000 seconds*"])
    assert result.ret == 4


@pytest.mark.parametrize("of", ["SIGKILL", "SIGSEGV"])
def test_a_death_in_quantization_leaves_nothing_half(study, of):
    conftest = study.path / "conftest.py"
    conftest.write_text(
        conftest.read_text().rstrip() + '\n    registry.add("quantizers", "gptq", "fakes:QUANTIZER")\n'
    )
    (study.path / "calibration.txt").write_text(of)
    study.tables["variants.made"] = (
        'backend = "fake"\nisolate = true\nquantize = { method = "gptq", bits = 8, calibration = "calibration.txt", group_size = 32 }'
    )
    study.pytester.makepyfile(PLAIN)
    result = study.run("-k", "made or good")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines([f"*made: its process was killed by {of}*while quantizing*"])
    assert not list((study.path / ".quantgate").rglob("half*"))
    assert all(is_gone(int(line.split()[1])) for line in study.log() if line.startswith("pid"))
    (study.path / "calibration.txt").write_text("a sound text")
    study.run("-k", "made").assert_outcomes(passed=1)


def test_a_test_that_wants_the_engines_model_is_told(study):
    study.pytester.makepyfile(ASKING)
    result = study.run("-k", "good", "--quantgate-isolate")
    assert re.search("runs in a process of its own", result.stdout.str())
    assert result.ret != 0 or result.parseoutcomes().get("skipped")


def test_workers_of_xdist_isolate_too(study):
    study.pytester.makepyfile(PLAIN)
    study.run("-n2", "--quantgate-isolate").assert_outcomes(passed=1, failed=1)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("python = 3", "*python = 3: write a non-empty string*"),
        ('python = "nowhere/python"', "*the interpreter *nowhere/python does not exist or cannot be run*"),
        ("requirements = []", "*requirements is empty*"),
        ('requirements = "torch"', "*write a list of strings*"),
        ('isolate = "yes"', "*isolate = 'yes': write true or false*"),
    ],
)
def test_a_stack_that_cannot_be_is_a_usage_error(study, written, message):
    study.tables["variants.good"] += f"\n{written}"
    study.pytester.makepyfile(PLAIN)
    result = study.run("-k", "good")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
