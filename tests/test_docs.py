"""The documentation runs: its blocks are executed, and what the code has stands in it."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import task_data

from pytest_quantgate import metrics, options
from pytest_quantgate.metrics import own
from pytest_quantgate.metrics.corpus import Corpus
from pytest_quantgate.parse import parse, parse_metric
from pytest_quantgate.recipe import METHODS
from pytest_quantgate.registry import _BUILT_IN, Registry, load
from pytest_quantgate.study import _MODEL_KEYS, _SERVER_KEYS, _STUDY_KEYS, read
from pytest_quantgate.wants import Wants

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
KINDS = {"python", "toml", "ini", "bash", "console", "yaml", "text", "mermaid", ""}
UNDAMAGED = ("gptq-v1", "gptq-v2", "awq")
NONE = "\u2013"
PRETENDER = (
    'quantize = { method = "gptq", bits = 8, group_size = 32, calibration = "corpus.txt" }\nbackend = "fake"'
)


class Block(NamedTuple):
    """One fenced block of a page."""

    language: str
    body: str
    line: int

    @property
    def file(self) -> str:
        """The file that its first line names, if it names one."""
        named = re.match(r"# (\w+\.py)\n", self.body)
        return named[1] if named else ""

    @property
    def is_test(self) -> bool:
        """Whether pytest is to run it."""
        return "def test_" in self.body


def blocks(page: Path, *languages: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\S*)[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    made = [Block(match[1], match[2], text.count("\n", 0, match.start()) + 1) for match in found]
    return [block for block in made if not languages or block.language in languages]


def doc(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def section(text: str, start: str) -> str:
    """Return the table that follows a marker."""
    after = text.split(start, 1)[1].lstrip("\n")
    return "\n".join(line for line in after.split("\n\n", 1)[0].splitlines() if line.startswith("|"))


def first_cells(table: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)


@pytest.fixture
def undamaged(study):
    """A study whose variants equal the baseline, so that every sensible gate holds."""
    study.tables = {name: body for name, body in study.tables.items() if not name.startswith("variants.")}
    for seed, name in enumerate(UNDAMAGED, 1):
        study.variant(name, seed=seed, damage=0.0)
    return study


@pytest.mark.parametrize("name", [name for name in NAMES if blocks(ROOT / name, "python")])
def test_python_blocks_run(undamaged, monkeypatch, name):
    """Blocks with tests pass or are skipped under --quantgate; the others run as scripts in the same folder."""
    found = blocks(ROOT / name, "python")
    if name == "docs/tasks.md":
        task_data.write(undamaged)
    for tag in {tag for block in found for tag in re.findall(r'since\("([^"]+)"\)', block.body)}:
        undamaged.gates(earlier="ppl < 1e9")
        assert undamaged.run("--quantgate-tag", tag).ret == 0
    for block in found:
        if block.file or block.is_test:
            file = (
                "docs_hooks.py" if block.file == "conftest.py" else block.file or f"test_line_{block.line}.py"
            )
            (undamaged.path / file).write_text(block.body)
    if any(block.file == "conftest.py" for block in found):
        undamaged.variant("pretender", damage=0.0)
        undamaged.tables["variants.pretender"] = PRETENDER
    if not any(block.is_test for block in found):
        (undamaged.path / "test_any.py").write_text(
            "def test_any(quantgate): quantgate.check('ppl_delta < 1')"
        )
    plugin = ["-p", "docs_hooks"] if (undamaged.path / "docs_hooks.py").exists() else []
    result = undamaged.run("--quantgate-report", "quantgate-report", *plugin)
    assert result.ret == 0, result.stdout.str()
    if plugin:
        assert (undamaged.path / "quantgate-report" / "gates.csv").read_text().startswith("test,variant")
    monkeypatch.chdir(undamaged.path)
    for block in found:
        if not (block.file or block.is_test):
            (undamaged.path / "script.py").write_text(block.body)
            runpy.run_path("script.py")


def test_the_backend_of_the_docs(study):
    """The example backend measures: the perplexity of guessing among 256 is 256."""
    for block in blocks(ROOT / "docs" / "extending.md", "python"):
        if block.file:
            (study.path / block.file.replace("conftest", "docs_hooks")).write_text(block.body)
    for file in study.path.glob("test_*.py"):
        file.unlink()
    study.tables[""] = 'dtype = "float32"\ndevice = "cpu"'
    study.tables = {name: body for name, body in study.tables.items() if not name.startswith("variants.")}
    study.variant("plain")
    study.tables["variants.plain"] = 'model = "plain"\nbackend = "uniform"'
    study.gates(
        guessing="ppl > 255.99 and ppl < 256.01", steady="tokens_per_second > 1", small="bits_per_weight > 1"
    )
    result = study.run("-p", "docs_hooks", "-rs")
    result.assert_outcomes(passed=2, skipped=1)


@pytest.mark.parametrize(
    ("name", "block"),
    [(name, block) for name in NAMES for block in blocks(ROOT / name, "toml")],
    ids=lambda value: value if isinstance(value, str) else str(value.line),
)
def test_toml_blocks_are_studies(tmp_path, name, block):
    """Configuration blocks are accepted as they stand, gates and settings included."""
    table = tomllib.loads(block.body)
    if "project" in table:
        groups = {f"pytest_quantgate.{kind}" for kind in _BUILT_IN}
        assert set(table["project"]["entry-points"]) <= groups
        return
    for path in re.findall(r'calibration = "([^"]+)"', block.body):
        (tmp_path / path).write_text("text")
    file = tmp_path / "quantgate.toml"
    file.write_text(block.body)
    study = read(file, tmp_path)
    registry = Registry()
    wants = Wants(registry, study)
    wants.check_settings()
    for definition in own.definitions(study.tasks, registry.names("metrics"), file):
        registry.define(definition)
    found = [metric for _, text in study.gates for metric in parse(text).metrics()]
    for metric in [*found, *map(parse_metric, study.measure)]:
        wants.definition(metric)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_page_names_exists(pytestconfig, name):
    """Options, ini keys, make targets, links and kinds of blocks on a page are real."""
    text = (ROOT / name).read_text(encoding="utf-8")
    known = {
        option for group in pytestconfig._parser._groups for use in group.options for option in use.names()
    }
    assert set(re.findall(r"--quantgate[a-z-]*", text)) <= known | {"--quantgate"}
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = "\n".join(block.body for block in blocks(ROOT / name, "bash", "console"))
    named = re.findall(r"^make (\w+)", commands, re.MULTILINE) + re.findall(r"`make (\w+)`", text)
    assert set(named) <= targets
    for block in blocks(ROOT / name, "ini"):
        keys = re.findall(r"^(\w+) =", block.body, re.MULTILINE)
        assert set(keys) <= {"quantgate", *(setting.ini for setting in options.SETTINGS)}
    assert {block.language for block in blocks(ROOT / name)} <= KINDS
    for target in re.findall(r"\]\(([^)#\s]*)(?:#[^)]*)?\)", text):
        assert not target or "://" in target or ((ROOT / name).parent / target).exists(), target


@pytest.mark.parametrize("name", NAMES)
def test_anchors_lead_somewhere(name):
    """A link to a section has that section."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#\s:]*)#([^)]+)\)", text):
        page = ((ROOT / name).parent / target) if target else ROOT / name
        titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
        assert anchor in slugs, f"{target}#{anchor}"


def test_every_option_stands_in_the_docs(pytestconfig):
    """The tables of the configuration page list the command line, and each option's other names."""
    text = doc("configuration.md")
    group = pytestconfig._parser.getgroup("quantgate")
    listed = first_cells(section(text, "4. the `[tool.quantgate]` table: `store`\n"))
    listed += first_cells(section(text, "These exist on the command line only:\n"))
    assert sorted(listed) == sorted(name for option in group.options for name in option.names())
    for setting in options.SETTINGS:
        assert f"| `{setting.flag}` | `{setting.ini.upper()}` | `{setting.ini}` | `{setting.name}` |" in text


def test_every_key_stands_in_the_docs():
    """Keys of the study, of a model, of each recipe and of each observer are those of the code."""
    text = doc("configuration.md")
    assert set(
        first_cells(section(text, '[tool.quantgate.gates]\nrelease = "ppl_delta < 1.0"\n```\n'))
    ) == set(_STUDY_KEYS)
    model = text.split("### Models")[1].split("### Recipes")[0]
    assert set(first_cells(model)) == {*_MODEL_KEYS, *_SERVER_KEYS, "quantize", "matrix"}
    for method, known in METHODS.items():
        table = section(text, f"<!-- recipe: {method} -->\n")
        rows = {key: (str(rule.default).lower(), rule.allowed) for key, rule in known.keys.items()}
        found = re.findall(r"\| `(\w+)` \| (.+?) \| (.+?) \|", table)
        assert {key: (default, allowed) for key, default, allowed in found} == rows
    for name in ("tokens", "generation"):
        observer = load(f"pytest_quantgate.metrics.{name}:{name.upper()}")
        assert set(first_cells(section(text, f"<!-- observer: {name} -->\n"))) == set(observer.settings)
    assert all(f"`{field}`" in text for field in Corpus.__dataclass_fields__)


def test_every_metric_stands_in_the_docs():
    """The table of the metrics page is the registry's: statistics, relations, unit and direction."""
    table = section(doc("metrics.md"), "Logarithms are natural.\n")
    registry = Registry()
    assert first_cells(table.replace("`.", "'.")) == list(_BUILT_IN["metrics"])
    for name in _BUILT_IN["metrics"]:
        definition = registry.get("metrics", name)
        row = next(line for line in table.splitlines() if line.startswith(f"| `{name}` "))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert re.findall(r"`\.(\w+)`", cells[1]) == [name for name in definition.statistics if name]
        assert re.findall(r"`\.(\w+)`", cells[2]) == list(definition.relations)
        assert (cells[3], cells[4]) == (definition.unit or NONE, definition.better)


def test_every_observer_has_a_section():
    """Each file of metrics that observes something is described."""
    titles = re.findall(r"^## (\w+)", doc("metrics.md"), re.MULTILINE)
    kinds = {
        path.stem
        for path in Path(next(iter(metrics.__path__))).glob("*.py")
        if "\n    kind = " in path.read_text(encoding="utf-8")
    }
    assert kinds <= {title.lower() for title in titles}


def test_messages_are_the_codes_own():
    """What troubleshooting quotes is written in the code."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("pytest_quantgate/**/*.py"))
    words = re.sub(r'"\s*\n\s*f?"|\{[^{}]*\}|[\'"]', "", code)
    quoted = re.findall(r"^\| `([^`]+)`", doc("troubleshooting.md"), re.MULTILINE)
    assert len(quoted) > 40
    for message in quoted:
        # three words in a row, or all there are, since names and numbers stand between them
        found = re.sub(r"['\"]", "", message).split()
        runs = [" ".join(found[start : start + 3]) for start in range(max(1, len(found) - 2))]
        assert any(run in words for run in runs), message
