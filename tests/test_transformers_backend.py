"""The transformers backend: scores, generation, findings, memory, and what it refuses to load."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import tiny_models  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from pytest_quantgate.backends import scoring  # noqa: E402
from pytest_quantgate.backends.loading import load_tokenizer  # noqa: E402
from pytest_quantgate.backends.modules import bits_of, nonfinite_tensors  # noqa: E402
from pytest_quantgate.backends.transformers import load  # noqa: E402
from pytest_quantgate.errors import (  # noqa: E402
    CheckpointError,
    ConfigError,
    NotMeasurableError,
    ObservationError,
)
from pytest_quantgate.interfaces import Window  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama."""
    return tiny_models.save(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    """It, loaded."""
    return load(tiny_models.spec(folder))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    target = tmp_path / "copy"
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def windows(*lengths: int, start: int = 1) -> list[Window]:
    """Return windows of random tokens."""
    rng = np.random.default_rng(0)
    return [Window(rng.integers(1, tiny_models.VOCABULARY, length), start) for length in lengths]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2", "gpt2"])
def test_chunks_of_hidden_states_give_the_models_logits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One decoder pass, read in chunks, equals the plain call; soft-capping and tied heads included."""
    network = tiny_models.network(kind)
    head = scoring.Head(network, tiny_models.VOCABULARY)
    head._chunk = 7
    ids = torch.from_numpy(np.stack([w.ids for w in windows(40, 40)]))
    positions = torch.tensor([0, 3, 38, 39, 40, 57, 79, 78, 60])
    with torch.inference_mode():
        plain = network(ids).logits.flatten(0, 1)[positions]
        chunks = list(head.logits(ids, positions))
    assert head.replays
    assert [len(chunk) for chunk in chunks] == [7, 2]
    assert torch.allclose(torch.cat(chunks), plain, atol=1e-5)


def test_a_head_that_cannot_be_replayed_is_run_plainly() -> None:
    """A model whose forward looks at more than the hidden states is noticed, and its numbers stay right."""
    network = tiny_models.network("llama")
    plain_forward = network.forward

    def forward(input_ids: Any, **options: Any) -> Any:
        made = plain_forward(input_ids=input_ids, **options)
        made.logits = made.logits + input_ids.float().mean()
        return made

    network.forward = forward
    head = scoring.Head(network, tiny_models.VOCABULARY)
    ids = torch.from_numpy(windows(20)[0].ids)[None]
    with torch.inference_mode():
        rows = torch.cat(list(head.logits(ids, torch.arange(19))))
        assert torch.allclose(rows, network(ids).logits[0, :19], atol=1e-5)
    assert head.replays is False


@pytest.mark.parametrize("vocabulary", [5, 64, 200, 5000])
@pytest.mark.parametrize("top_k", [0, 1, 5, 64])
def test_rows_equal_a_plain_log_softmax(vocabulary: int, top_k: int) -> None:
    """What is read off the logits is what log_softmax, topk, argmax and min say, in whatever blocks."""
    top_k = min(top_k, vocabulary)
    logits = torch.randn(9, vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * 4
    targets = torch.arange(9) % vocabulary
    expected = logits.double().log_softmax(-1)
    rows = scoring.read_rows(logits.clone(), targets, top_k, None)
    assert torch.allclose(rows.logprob.double(), expected.gather(1, targets[:, None])[:, 0], atol=1e-5)
    assert torch.allclose(rows.at.double(), expected.topk(top_k).values, atol=1e-5)
    assert torch.equal(rows.ids, expected.topk(top_k).indices)
    assert torch.equal(rows.top1, expected.argmax(-1))
    assert torch.allclose(rows.floor.double(), expected.amin(-1), atol=1e-5)
    asked = torch.stack([targets, (targets + 1) % vocabulary], 1)
    again = scoring.read_rows(logits.clone(), targets, 0, asked)
    assert torch.allclose(again.at.double(), expected.gather(1, asked), atol=1e-5)
    assert torch.equal(again.top1, rows.top1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite(bad: float) -> None:
    """One bad logit among thousands is an error, not a number."""
    logits = torch.zeros(3, 1000)
    logits[1, 777] = bad
    with pytest.raises(ObservationError, match="not finite"):
        scoring.read_rows(logits, torch.zeros(3, dtype=torch.long), 4, None)


def test_windows_of_all_lengths_come_in_order(model: Any) -> None:
    """Batching changes nothing: windows of mixed lengths and starts score as they do alone."""
    mixed = [*windows(40, 40, 40), *windows(33, 40, start=9), *windows(2)]
    together = list(model.score(mixed, top_k=4))
    assert [len(s.logprob) for s in together] == [39, 39, 39, 24, 31, 1]
    for window, scores in zip(mixed, together, strict=True):
        (alone,) = model.score([window], top_k=4)
        assert np.allclose(alone.logprob, scores.logprob, atol=2e-6)
        assert np.array_equal(alone.ids, scores.ids)


def test_a_gpu_without_room_gets_smaller_batches(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory halves the batch until it fits; one window that does not fit is an error."""
    plain, sizes = model._score_batch, []

    def score(batch: list[Window], *rest: Any) -> Any:
        sizes.append(len(batch))
        if len(batch) > limit:
            raise torch.cuda.OutOfMemoryError
        return plain(batch, *rest)

    monkeypatch.setattr(model, "_score_batch", score)
    monkeypatch.setattr(model._budget, "amount", 8 * 20)
    limit = 2
    assert len(list(model.score(windows(*[20] * 9)))) == 9
    assert sizes == [8, 4, 2, 2, 2, 2, 1]
    limit = 0
    with pytest.raises(ObservationError, match="not even one row fits the memory"):
        list(model.score(windows(20)))


def test_greedy_generation_is_that_of_generate(model: Any) -> None:
    """The same tokens as transformers' own greedy search, each with a later time stamp."""
    ids = windows(12)[0].ids.tolist()
    trace = model.generate(ids, 15)
    theirs = model.native.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, 12),
        max_new_tokens=15,
        do_sample=False,
        eos_token_id=None,
    )
    assert trace.ids.tolist() == theirs[0, 12:].tolist()
    assert (np.diff(trace.seconds) > 0).all()
    assert trace.seconds[0] > 0


def test_generation_stops_at_the_end(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `stop_at_end` the end token is the last one."""
    ids = windows(12)[0].ids.tolist()
    free = model.generate(ids, 6).ids.tolist()
    monkeypatch.setattr(model.native.generation_config, "eos_token_id", [free[2], 5])
    assert model.generate(ids, 6, stop_at_end=True).ids.tolist() == free[: free.index(free[2]) + 1]
    assert model.generate(ids, 6).ids.tolist() == free


def test_text_and_ids(folder: Path, model: Any, tmp_path: Path) -> None:
    """Encoding adds nothing, decoding inverts it, BOS is known where the tokenizer puts one."""
    text = "the river opens; seven falls"
    ids = model.encode(text)
    assert ids.dtype == np.int64
    assert model.decode(ids) == text
    assert model.bos_id is None
    with pytest.raises(ObservationError, match="no chat template"):
        model.encode_chat([{"role": "user", "content": "x"}])
    with_bos = load(tiny_models.spec(tiny_models.save(tmp_path / "bos", "llama", bos=True)))
    assert with_bos.bos_id == 0
    assert with_bos.encode(text).tolist() == ids.tolist()


def test_chat(copy: Path) -> None:
    """A conversation goes through the chat template, ready for the assistant."""
    (copy / "chat_template.jinja").write_text(
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
    )
    model = load(tiny_models.spec(copy))
    assert model.decode(model.encode_chat([{"role": "user", "content": "seven"}])) == "[user]seven[a]"


def test_findings_of_a_dense_model(model: Any) -> None:
    """Nothing is quantized, all linear layers are listed, all is finite."""
    findings = model.findings()
    assert findings["quantized"] == {}
    assert len(findings["dense"]) == 2 * 7 + 1
    assert findings["nonfinite"] == []
    assert json.loads(json.dumps(findings)) == findings


def test_nonfinite_weights_are_named(copy: Path) -> None:
    """A NaN among thousands of weights is found, by the tensor's name, and scoring refuses the logits."""
    name = "model.layers.1.mlp.up_proj.weight"
    tensors = load_file(copy / "model.safetensors")
    tensors[name][3, 5] = float("nan")
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    model = load(tiny_models.spec(copy))
    assert nonfinite_tensors(model.native) == [name]
    with pytest.raises(ObservationError, match="not finite"):
        list(model.score(windows(10)))


class Packed(torch.nn.Module):
    """What GPTQModel's layers look like."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.qweight = torch.zeros(2, 2, dtype=torch.int32)
        for name, value in attributes.items():
            setattr(self, name, value)


def test_bits_are_told_without_the_library() -> None:
    """Packed layers say their bits; linear and other layers have none."""
    assert bits_of(Packed(bits=3)) == 3
    assert bits_of(Packed(w_bit=4)) == 4
    assert bits_of(torch.nn.Linear(2, 2)) == 0
    assert bits_of(type("Linear4bit", (torch.nn.Linear,), {})(2, 2)) == 4
    assert bits_of(torch.nn.ReLU()) == 0


def test_memory_and_closing(folder: Path) -> None:
    """Peak memory holds at least the weights, and closing twice is harmless."""
    model = load(tiny_models.spec(folder))
    assert model.load_seconds > 0
    assert set(model.memory()) == {"ram"}
    assert model.memory()["ram"] >= 0
    model.close()
    model.close()


def test_a_missing_tensor_is_refused(copy: Path) -> None:
    """A model of which a part would be made up at random does not load; the tensor is named."""
    tensors = load_file(copy / "model.safetensors")
    tensors["model.extra.weight"] = tensors.pop("lm_head.weight")
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks tensors: lm_head\.weight"):
        load(tiny_models.spec(copy))


def test_an_unknown_tensor_is_refused(copy: Path) -> None:
    """A tensor that the architecture has no place for means another model, or another version of it."""
    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.0.mlp.gate.weight"] = torch.zeros(2, 2)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"unknown tensors: model\.layers\.0\.mlp\.gate\.weight"):
        load(tiny_models.spec(copy))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x00" * 64), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer cannot be loaded"),
    ],
)
def test_damaged_folders(copy: Path, damage: Any, words: str) -> None:
    """Damage is one line that names the folder, whatever the library says about it."""
    damage(copy)
    with pytest.raises(CheckpointError, match=words) as caught:
        load(tiny_models.spec(copy))
    assert "\n" not in str(caught.value)
    assert str(copy) in str(caught.value)


def test_what_cannot_be_asked_for(folder: Path) -> None:
    """An unknown dtype or option, and a GPU that is not there, are said before anything is loaded."""
    spec = tiny_models.spec(folder)
    with pytest.raises(ConfigError, match="dtype 'int3'"):
        load(replace(spec, dtype="int3"))
    with pytest.raises(ConfigError, match="no option 'kernle'"):
        load(replace(spec, options=(("kernle", "x"),)))
    if not torch.cuda.is_available():
        with pytest.raises(NotMeasurableError, match="no CUDA device"):
            load(replace(spec, device="cuda"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_computes_in_the_dtype_that_was_asked_for(folder: Path, dtype: str) -> None:
    """Weights and logits have that dtype."""
    model = load(tiny_models.spec(folder, dtype=dtype))
    assert str(model.native(torch.tensor([[1, 2]])).logits.dtype) == f"torch.{dtype}"


def test_loading_is_quiet(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither progress bars nor warnings of the libraries reach the terminal."""
    load(tiny_models.spec(folder)).close()
    load_tokenizer(tiny_models.spec(folder), allow_code=False)
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module", params=["gptq", "awq"])
def quantized(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama in 4 bits, made by GPTQModel."""
    gptqmodel = pytest.importorskip("gptqmodel")
    pytest.importorskip("optimum")
    awq = {"quant_method": "awq", "format": "gemm"} if request.param == "awq" else {"desc_act": False}
    settings = gptqmodel.QuantizeConfig(bits=4, group_size=32, device="cpu", **awq)
    made = gptqmodel.GPTQModel.load(str(folder), settings)
    samples = [{"input_ids": w.ids.tolist(), "attention_mask": [1] * 64} for w in windows(*[64] * 16)]
    backend = {"backend": gptqmodel.BACKEND.AWQ_TORCH} if awq.get("quant_method") else {}
    made.quantize(samples, batch_size=4, **backend)
    out = tmp_path_factory.mktemp("quantized") / request.param
    made.save(str(out))
    return out


@pytest.mark.slow
def test_packed_layers_compute_in_float32(quantized: Path) -> None:
    """In float32 a packed layer is its dequantized matrix: bfloat16 scales inside would be off by 3e-3."""
    model = load(tiny_models.spec(quantized, "v", dtype="float32"))
    findings = model.findings()
    assert set(findings["quantized"].values()) == {4}
    assert len(findings["quantized"]) == 14
    assert findings["dense"] == ["lm_head"]
    layer = model.native.model.layers[0].mlp.up_proj
    with torch.inference_mode():
        matrix = layer(torch.eye(layer.in_features))  # row by row, each product has one term
        inputs = torch.randn(20, layer.in_features, generator=torch.Generator().manual_seed(0))
        outputs = layer(inputs)
    assert outputs.dtype == torch.float32
    exact = inputs.double() @ matrix.double()
    assert (outputs.double() - exact).norm() / exact.norm() < 1e-6
    assert len(set(matrix[:32, 0].tolist())) <= 16  # one group of one column: 4 bits


@pytest.mark.slow
def test_packed_layers_compute_in_half_precision(quantized: Path) -> None:
    """The same checkpoint loads in bfloat16 and float16, and says the same within their precision."""
    scores = {}
    for dtype in ("float32", "bfloat16", "float16"):
        model = load(tiny_models.spec(quantized, "v", dtype=dtype))
        scores[dtype] = np.concatenate([s.logprob for s in model.score(windows(64, 64))])
    assert np.abs(scores["bfloat16"] - scores["float32"]).mean() < 0.05
    assert np.abs(scores["float16"] - scores["float32"]).mean() < 0.01
