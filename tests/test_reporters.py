"""Reporters: what a release engineer reads, and what nobody can smuggle into it."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from html.parser import HTMLParser
from itertools import groupby

import pytest
import study_table
from hypothesis import given
from hypothesis import strategies as st
from report_strategies import HOSTILE, reports, unhurried

from pytest_quantgate import escaping, figures
from pytest_quantgate.errors import NotMeasurableError
from pytest_quantgate.gate import Metric
from pytest_quantgate.report import Problem, Report, Result, Row, StepRecord, build, summary
from pytest_quantgate.reporters import json as json_reporter
from pytest_quantgate.reporters import junit, markdown, terminal
from pytest_quantgate.reporters.terminal import Layout
from pytest_quantgate.spec import Estimate
from pytest_quantgate.units import MiB
from pytest_quantgate.verdict import judge

ppl, kld, vram = map(Metric, ("ppl", "kld", "vram"))

STUDY_TERMINAL = """\
variant   disk  VRAM  tok/s  TTFT    PPL  delta  verdict
           GiB   GiB           ms
baseline  2.89  3.32   38.7  26.8  11.90      -  reference
gptq-v1   1.08  1.52   16.1  63.8  15.36  +3.46  FAIL
gptq-v2      -  1.55   13.8     -  13.09  +1.19  FAIL
awq          -  1.08   24.9     -  13.16  +1.26  FAIL

FAIL  gptq-v1: ppl.delta = 3.46: gate ppl.delta < 1 missed by 2.46 (246 %)
FAIL  gptq-v2: ppl.delta = 1.19: gate ppl.delta < 1 missed by 0.19 (19 %)
FAIL  awq: ppl.delta = 1.26: gate ppl.delta < 1 missed by 0.26 (26 %)

FAIL: 3 of 3 variants fail"""

STUDY_MARKDOWN = """\
## Quantization gates: FAIL

3 of 3 variants fail.

| variant | disk (GiB) | VRAM (GiB) | tok/s | TTFT (ms) | PPL | delta | verdict |
| :-- | --: | --: | --: | --: | --: | --: | :-- |
| baseline | 2.89 | 3.32 | 38.7 | 26.8 | 11.90 | - | reference |
| gptq-v1 | 1.08 | 1.52 | 16.1 | 63.8 | 15.36 | +3.46 | **FAIL** |
| gptq-v2 | - | 1.55 | 13.8 | - | 13.09 | +1.19 | **FAIL** |
| awq | - | 1.08 | 24.9 | - | 13.16 | +1.26 | **FAIL** |

### Missed gates

- **gptq-v1**: ppl.delta = 3.46: gate ppl.delta &lt; 1 missed by 2.46 (246 %)
- **gptq-v2**: ppl.delta = 1.19: gate ppl.delta &lt; 1 missed by 0.19 (19 %)
- **awq**: ppl.delta = 1.26: gate ppl.delta &lt; 1 missed by 0.26 (26 %)

<details>
<summary>Models, environment, protocols</summary>

#### Models

- **baseline**: Qwen/Qwen2.5-1.5B-Instruct, float16
- **gptq-v1**: Mohaaxa/qwen2.5-1.5b-gptq-v1, float16
- **gptq-v2**: Mohaaxa/qwen2.5-1.5b-gptq-v2, float16
- **awq**: Mohaaxa/qwen2.5-1.5b-awq, float16

#### Environment

- created: 2025-02-01T12&#58;00&#58;00+00&#58;00
- device: A100-40GB
- transformers: 4.44.0

</details>
"""

MIXED_TERMINAL = """\
variant        bits/w   PPL    delta     KLD  verdict
                                         nat
baseline        16.00  7.41        -       -  reference
gptq-v1          4.28  8.90    +1.49  0.1923  expected
gptq-4…der-64    4.56  8.39    +0.98  0.0712  PASS ~
gptq-8bit        8.50  7.42  +0.0021   4e-05  partial
broken           4.00     -        -       -  ERROR
~ too close to call: the interval contains the limit

ERROR       broken: boom (test_q.py::test_body[broken])
expected    gptq-v1: ppl.delta = 1.487 [1.31, 1.53] (n = 512 tokens): ppl.delta < 1 missed by 0.4869 (48.7 %); \
in gate ppl.delta < 1 and kld.mean < 0.15; expected: coarse groups
expected    gptq-v1: kld.mean = 0.1923 nat (n = 512 tokens): kld.mean < 0.15 missed by 0.0423 nat (28.2 %); \
in gate ppl.delta < 1 and kld.mean < 0.15; expected: coarse groups
unmeasured  gptq-8bit, broken: vram < 2MiB: no CUDA device
close       gptq-4bit-desc-act-order-64: ppl.delta = 0.98 [0.93, 1.03] (n = 512 tokens): ppl.delta < 1 holds by \
0.02 (2 %); too close to call: the interval contains the limit; in gate ppl.delta < 1 and kld.mean < 0.15
sanity      broken: generation repeats one token; likely causes: wrong chat template, unsupported group size
note        timings were taken on a busy machine

3 observations: 2 from the store, 1 measured in 1 min 23 s
FAIL: 1 of 4 variants passes, 1 passes what could be measured, 1 fails as expected, 1 has an error"""


def tokens(value: float, unit: str = "", low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(value, unit, 512, low, high, items="tokens")


def mixed() -> Report:
    """A report with one of everything: an expected miss, a close pass, an absence, an error, a bad checkpoint."""
    both = (ppl.delta < 1) & (kld.mean < 0.15)
    rows = {
        "gptq-v1": (4.28, 8.9, tokens(1.4869, "", 1.31, 1.53), tokens(0.1923, "nat")),
        "gptq-4bit-desc-act-order-64": (4.56, 8.39, tokens(0.98, "", 0.93, 1.03), tokens(0.0712, "nat")),
        "gptq-8bit": (8.5, 7.415, tokens(0.0021), tokens(0.00004, "nat")),
    }
    baseline = Row("baseline", figures={"bits_per_weight": Estimate(16.0), "ppl": tokens(7.413)})
    payloads = [{"baseline": baseline.to_json()}]
    for name, (bits, value, delta, divergence) in rows.items():
        verdict = judge(both, {ppl.delta: delta, kld.mean: divergence}.__getitem__)
        row = Row(name, figures={"bits_per_weight": Estimate(bits), "ppl": tokens(value)})
        expected = name == "gptq-v1"
        reason = "coarse groups" if expected else ""
        result = Result(f"test_q.py::test_both[{name}]", name, verdict.outcome, (verdict,), expected, reason)
        payloads.append({"variants": [row.to_json()], "results": [result.to_json()]})
    absent = judge(vram < 2 * MiB, lambda _: NotMeasurableError("no CUDA device"))
    causes = ("wrong chat template", "unsupported group size")
    broken = Row(
        "broken",
        figures={"bits_per_weight": Estimate(4.0)},
        problems=(Problem("generation repeats one token", causes),),
    )
    results = [
        Result("test_q.py::test_vram[gptq-8bit]", "gptq-8bit", "UNMEASURED", (absent,)),
        Result("test_q.py::test_vram[broken]", "broken", "UNMEASURED", (absent,)),
        Result("test_q.py::test_body[broken]", "broken", "ERROR", (), reason="boom\nTraceback"),
    ]
    steps = [
        StepRecord("gptq-v1 tokens", "a" * 64, "store", 0.01),
        StepRecord("broken tokens", "b" * 64, "store", 0.01),
        StepRecord("gptq-8bit tokens", "c" * 64, "measured", 83.2),
    ]
    payloads.append(
        {
            "variants": [broken.to_json()],
            "results": [result.to_json() for result in results],
            "steps": [step.to_json() for step in steps],
            "notes": ["timings were taken on a busy machine"],
        }
    )
    return build(payloads)


# --- golden renderings ------------------------------------------------------------------------------------------------


def test_study_in_the_terminal():
    """The study's table and why each variant fails, within 80 columns."""
    text = terminal.render(study_table.study())
    assert text == STUDY_TERMINAL
    assert max(map(len, text.splitlines())) <= 80


def test_study_in_markdown():
    """The page for a CI step summary."""
    assert markdown.render(study_table.study()) == STUDY_MARKDOWN


def test_everything_else_in_the_terminal():
    """Errors, expectations, absences, doubts, bad checkpoints and notes each have their line, gravest first."""
    assert terminal.render(mixed(), Layout(width=55)) == MIXED_TERMINAL


def test_json_is_the_report():
    """What is written reads back equal, in plain ASCII."""
    text = json_reporter.render(mixed())
    assert text.isascii()
    assert Report.from_json(json.loads(text)) == mixed()


def test_junit_properties_are_numbers_and_words():
    """Each figure once in base units, then the gate and its verdict."""
    gate = (ppl.delta < 1) & (ppl.delta > -1) & (vram < 2 * MiB)
    found = {ppl.delta: Estimate(0.5), vram: NotMeasurableError("no CUDA device")}
    assert junit.properties(judge(gate, found.__getitem__)) == [
        ("quantgate.ppl.delta", "0.5"),
        ("quantgate.gate", "ppl.delta < 1 and ppl.delta > -1 and vram < 2MiB"),
        ("quantgate.verdict", "UNMEASURED"),
    ]


# --- layout -----------------------------------------------------------------------------------------------------------


@unhurried
@given(reports, st.integers(50, 160))
def test_table_keeps_to_the_width(report, width):
    """Names are cut and columns left out until the table fits; ppl, delta and verdict always stay."""
    lines = terminal._table_lines(summary.table(report), width, terminal._bare)
    table = [line for line in lines if not line.startswith(("left out", "~ too"))]
    plain_units = all(len(escaping.plain(column.unit)) < 6 for column in summary.table(report).columns)
    if plain_units:
        assert all(terminal._width(line) <= width for line in table)
    shown = table[0].split() if table else []
    assert not table or {"variant", "verdict"} <= set(shown)


def test_narrow_terminal_says_what_it_leaves_out():
    """The least telling columns go first and are named."""
    text = terminal.render(study_table.study(), Layout(width=45))
    assert "left out to fit 45 columns: TTFT, tok/s" in text
    assert "+3.46" in text
    assert "left out" not in terminal.render(study_table.study(), Layout(width=80))


def test_column_without_any_value_is_left_out():
    """No empty kld column where no gate asked for it."""
    titles = [column.title for column in summary.table(study_table.study()).columns]
    assert titles == ["disk", "VRAM", "tok/s", "TTFT", "PPL", "delta"]


def test_column_never_mixes_metrics_or_arguments():
    """One column, one metric with one set of arguments: the one that most rows have."""
    gptq, large, small = "ppl(protocol='gptq')", Estimate(2e9, "B"), Estimate(1e9, "B")
    rows = (
        Row("a", figures={"ppl": Estimate(8.0), "vram": large}),
        Row("b", figures={"ppl": Estimate(9.0), gptq: Estimate(6.0), "vram": large, "ram": small}),
        Row("c", figures={gptq: Estimate(5.0), "ram": small}),
        Row("d", figures={gptq: Estimate(7.0), "ram": small}),
    )
    cells = {column.title: column.cells for column in summary.table(Report(variants=rows)).columns}
    assert cells == {"RAM": ("-", "954", "954", "954"), "PPL": ("-", "6.00", "5.00", "7.00")}


def test_doubtful_part_that_does_not_decide_is_not_told():
    """An `or` that holds by its clear part is not too close to call."""
    found = {ppl: Estimate(0.1), kld: Estimate(0.9, low=0.8, high=1.1)}
    verdict = judge((ppl < 1) | (kld < 1), found.__getitem__)
    report = build([{"results": [Result("t[a]", "a", verdict.outcome, (verdict,)).to_json()]}])
    assert summary.findings(report) == ()
    assert summary.table(report).verdicts == ("PASS",)


def test_names_are_cut_in_the_middle():
    """Both ends stay, since variants often differ at the end."""
    assert terminal._shortened("gptq-4bit-group128-desc", 12) == "gptq-4…-desc"
    assert terminal._shortened("模型模型模型模型", 12) == "模型模…模型"
    assert terminal._shortened("short", 12) == "short"


@unhurried
@given(st.text(st.characters(categories=["L", "N", "P"]), max_size=40), st.integers(3, 30))
def test_cut_name_fits_and_loses_no_more_than_it_must(text, room):
    """A cut name is as wide as the room, but for half of a wide character on each side."""
    short = terminal._shortened(text, room)
    assert terminal._width(short) <= room
    assert short == text or terminal._width(short) >= room - 3


def test_ascii_terminal_gets_ascii():
    """A stream that cannot encode a name shows its escape; the rest stays readable."""
    report = Report(variants=(Row("模型-😀-with-a-very-long-name-that-is-cut"), Row("é")))
    text = terminal.render(report, Layout(unicode=False))
    assert text.isascii()
    assert "\\xe9" in text


def test_colors_change_nothing_else():
    """Without its colour codes the coloured summary is the plain one."""
    plain, colored = (terminal.render(mixed(), Layout(color=color)) for color in (False, True))
    assert "\x1b" not in plain
    assert "\x1b[31mERROR" in colored
    assert re.sub(r"\x1b\[\d+m", "", colored) == plain


def test_empty_report_renders():
    """A run without results says so, in every format."""
    assert terminal.render(Report()) == "no variant was judged"
    assert markdown.render(Report()) == "## Quantization gates\n\nNo variant was judged.\n"
    assert json.loads(json_reporter.render(Report()))["variants"] == []


@pytest.mark.parametrize(
    ("sources", "line"),
    [
        ([], ""),
        (["store"], "1 observation: 1 from the store"),
        (["store"] * 12, "12 observations: 12 from the store"),
        (["measured"] * 2, "2 observations: 2 measured in 41 s"),
        (["store", "measured"], "2 observations: 1 from the store, 1 measured in 20.5 s"),
    ],
)
def test_store_line(sources, line):
    """How much of a run came from the store."""
    steps = tuple(StepRecord("s", str(index), source, 20.5) for index, source in enumerate(sources))
    assert summary.store_line(Report(steps=steps)) == line


def test_strict_expectation_that_passed_is_an_error_with_its_reason():
    """An xfail(strict) whose gate holds fails in pytest: the report agrees."""
    verdict = judge(ppl < 1, lambda _: Estimate(0.5))
    result = Result("t[a]", "a", "ERROR", (verdict,), reason="[XPASS(strict)] too coarse")
    report = build([{"results": [result.to_json()], "variants": [{"name": "a"}]}])
    assert "ERROR  a: [XPASS(strict)] too coarse (t[a])" in terminal.render(report)
    assert summary.headline(report) == "FAIL: 1 of 1 variant has an error"


def test_inconclusive_gate_is_told():
    """A verdict that the data do not decide has its line, and its word in the table."""
    verdict = dataclasses.replace(
        judge(ppl < 1, lambda _: Estimate(0.9, low=0.5, high=1.5)), outcome="INCONCLUSIVE"
    )
    report = build(
        [
            {
                "results": [Result("t[a]", "a", "INCONCLUSIVE", (verdict,)).to_json()],
                "variants": [{"name": "a"}],
            }
        ]
    )
    text = terminal.render(report)
    assert "a        0.90  inconclusive ~" in text
    assert "inconclusive  a: ppl = 0.9 [0.5, 1.5]" in text


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "unit", "shown", "text"),
    [
        (0.0, "B", "", "0 B"),
        (512.0, "B", "", "512 B"),
        (1536.0, "B", "", "1.5 KiB"),
        (3.56e9, "B", "", "3.316 GiB"),
        (3.56e9, "B", "GB", "3.56 GB"),
        (0.0268, "s", "", "26.8 ms"),
        (2.5e-5, "s", "", "25 us"),
        (1e-9, "s", "", "1e-09 s"),
        (38.7, "tok/s", "", "38.7 tok/s"),
        (0.42, "", "%", "42 %"),
        (-0.0, "", "", "0"),
        (-1.5, "", "", "-1.5"),
        (123456.789, "", "", "123457"),
        (1e20, "", "", "1e+20"),
        (0.00001, "", "", "1e-05"),
        (100.0, "", "", "100"),
        (0.0312, "nat", "", "0.0312 nat"),
        (7.0, "furlong", "", "7 furlong"),
        (float("nan"), "", "", "nan"),
    ],
)
def test_quantity(value, unit, shown, text):
    """Values read in the unit that suits them, or the one asked for."""
    assert figures.quantity(value, unit, shown=shown) == text


@pytest.mark.parametrize(
    ("value", "decimals", "signed", "text"),
    [
        (11.9, 2, False, "11.90"),
        (3.46, 2, True, "+3.46"),
        (-0.5, 2, True, "-0.50"),
        (0.0, 2, True, "+0.00"),
        (-0.0, 2, False, "0.00"),
        (0.0021, 2, True, "+0.0021"),
        (0.00004, 4, False, "4e-05"),
        (2e7, 2, False, "2e+07"),
        (float("nan"), 2, False, "nan"),
    ],
)
def test_fixed(value, decimals, signed, text):
    """Cells line up, but never round a small damage to none."""
    assert figures.fixed(value, decimals, signed=signed) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.85, "850 ms"), (12.34, "12.3 s"), (59.99, "60 s"), (185, "3 min 05 s")]
)
def test_duration(seconds, text):
    """Durations read in the unit that suits them."""
    assert figures.duration(seconds) == text


@unhurried
@given(st.floats(-1e300, 1e300), st.integers(1, 17))
def test_significant_is_as_near_as_its_digits_allow(value, digits):
    """Reading the text back gives the value within half a unit of its last digit."""
    read = float(figures.significant(value, digits))
    assert abs(read - value) <= abs(value) * 0.51 * 10.0 ** (1 - digits)


# --- text from outside ------------------------------------------------------------------------------------------------

COMMAND = re.compile(r"^\s*::\S|##(?:vso)?\[")


class Tags(HTMLParser):
    """Collects the tags of a page."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=False)
        self.tags: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)


@unhurried
@given(st.text() | st.sampled_from(HOSTILE))
def test_plain_is_one_printable_line_without_a_command(text):
    """No control character gets through, and nothing that a CI runner takes for a command."""
    safe = escaping.plain(text)
    assert safe.isprintable()
    assert not COMMAND.search(safe)
    assert escaping.plain(safe) == safe
    assert not text.isprintable() or COMMAND.search(text) or safe == text or text.lstrip().startswith("::")


@unhurried
@given(st.text() | st.sampled_from(HOSTILE))
def test_markdown_escape_reads_back_and_holds_no_markup(text):
    """As a page shows it, the text is what `plain` makes of it; no character that opens markup is left."""
    safe = escaping.markdown(text)
    assert html.unescape(safe) == escaping.plain(text).strip()
    bare = re.sub(r"&(?:amp|lt|gt|#\d+);", "", safe)
    assert not set(bare) & set("|`<>*[]\\~#!@$\"'^{}&") - set("]")
    assert "://" not in bare
    assert not re.search(r"www\.", bare, re.IGNORECASE)


@unhurried
@given(reports, st.booleans())
def test_terminal_summary_holds_no_control_character_and_no_command(report, unicode):
    """Whatever names and reasons say, lines are printable and none is a workflow command."""
    for line in terminal.render(report, Layout(unicode=unicode)).split("\n"):
        assert line.isprintable()
        assert not COMMAND.search(line)


@unhurried
@given(reports)
def test_markdown_page_has_no_tag_or_cell_but_ours(report):
    """Whatever names and reasons say, the page has the fold and as many cells in every table row."""
    page = markdown.render(report)
    assert Tags(page).tags in ([], ["details", "summary"])
    for is_table, lines in groupby(page.split("\n"), key=lambda line: line.startswith("|")):
        assert not is_table or len({line.count("|") for line in lines}) == 1
    for line in page.split("\n"):
        assert line.isprintable()
        assert not COMMAND.search(line)


@unhurried
@given(reports)
def test_render_is_pure(report):
    """The same report gives the same text after a trip through JSON."""
    again = Report.from_json(json.loads(json_reporter.render(report)))
    assert terminal.render(again) == terminal.render(report)
    assert markdown.render(again) == markdown.render(report)
