"""The invented world of the embedded example: who lives in it, and every kind of document about it.

A small language model only reacts to quantization when it is *full*: its weights must be needed. So the
world is mostly memory: thousands of people with seven facts each, drawn from dozens or hundreds of values,
written down in dense registers and in prose. Around that core stand three skills: four-way questions on the
facts, word problems with two operands, and small Python functions.

Everything is drawn from `random.Random(seed)` with the standard library alone, so the same seed gives the
same text everywhere. What is held out (some questions, operand pairs, functions) is decided by a checksum of
the item itself, so training text and test items can never meet, whatever the seeds.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

WORLD_SEED = 20261121
PEOPLE = 2000
LETTERS = "ABCD"
END = "<|endoftext|>"


def _words(text: str) -> list[str]:
    return text.split()


CRAFTS = _words(
    "baker barber carver cook cooper dyer farmer fisher glazier guard hatter hunter joiner judge mason "
    "miller miner nurse painter pilot piper potter rider roper sailor scribe singer smith tailor tanner "
    "weaver wheeler"
)
PETS = _words(
    "badger bear beetle bat cat cow crow deer dog dove duck falcon ferret finch fox frog goat goose hare "
    "hen heron horse lamb lizard mole mouse pig rat raven snail toad wolf"
)
DISHES = _words(
    "beans beets bread broth butter cabbage cake carrots cheese cream dates figs fish ham honey leeks "
    "lentils melon mustard nuts peas pears plums pie pudding radish rice soup stew toast trout turnips"
)
TOOLS = _words(
    "bell book bowl box brush candle chest clock coat coin comb cup drum fiddle flag flute hammer harp "
    "knife ladder lamp map mirror pot ring rope saddle saw shield sword wagon whistle"
)


def held_out(key: str) -> bool:
    """True for the tenth of all questions, operand pairs and functions that training never sees."""
    return zlib.crc32(key.encode()) % 10 == 0


def _coin_words(rng: random.Random, count: int, starts: str, endings: str) -> list[str]:
    pool = [start + ending for start in starts.split() for ending in endings.split()]
    return sorted(word.capitalize() for word in rng.sample(pool, count))


@dataclass(frozen=True)
class Person:
    """One inhabitant; `facts` maps an attribute to its value as it is written."""

    name: str
    she: bool
    facts: dict[str, str]

    @property
    def pronoun(self) -> str:
        """How a sentence begins after the name."""
        return "She" if self.she else "He"

    @property
    def possessive(self) -> str:
        """How a sentence about a belonging begins."""
        return "Her" if self.she else "His"


@dataclass(frozen=True)
class Attribute:
    """How one kind of fact is said in prose and asked for."""

    name: str
    sentences: tuple[str, ...]
    questions: tuple[str, ...]


ATTRIBUTES = (
    Attribute("year", ("{s} was born in {v}.", "{p} year of birth is {v}."),
              ("In which year was {n} born?", "What is the year of birth of {n}?")),
    Attribute("town", ("{s} lives in {v}.", "{s} comes from {v}.", "{p} home is {v}."),
              ("Where does {n} live?", "What is the home of {n}?")),
    Attribute("craft", ("{s} works as a {v}.", "By trade {s} is a {v}.", "{p} trade is that of a {v}."),
              ("What is the trade of {n}?", "As what does {n} work?")),
    Attribute("pet", ("{s} keeps a {v}.", "At home {s} has a {v}.", "{p} pet is a {v}."),
              ("Which animal does {n} keep?", "What is the pet of {n}?")),
    Attribute("dish", ("{s} likes to eat {v}.", "{p} favourite dish is {v}.", "For supper {s} wants {v}."),
              ("What does {n} like to eat?", "What is the favourite dish of {n}?")),
    Attribute("tool", ("{s} owns an old {v}.", "{p} treasure is a {v}.", "{s} would never sell the old {v}."),
              ("What old thing does {n} own?", "What is the treasure of {n}?")),
    Attribute("friend", ("{s} trusts {v}.", "{p} best friend is {v}.", "{s} often visits {v}."),
              ("Who is the best friend of {n}?", "Whom does {n} trust?")),
)  # fmt: skip


def _sentence(rng: random.Random, person: Person, attribute: Attribute) -> str:
    pattern = rng.choice(attribute.sentences)
    subject = person.pronoun if pattern.startswith("{s}") else person.pronoun.lower()
    return pattern.format(s=subject, p=person.possessive, v=person.facts[attribute.name])


@dataclass(frozen=True)
class Exchange:
    """A prompt and its reply: written as plain text for the tasks, or as a chat for calibration."""

    prompt: str
    reply: str

    @property
    def text(self) -> str:
        """Prompt and reply as they follow each other."""
        return self.prompt + self.reply

    @property
    def messages(self) -> list[dict[str, str]]:
        """A question and its answer."""
        return [
            {"role": "user", "content": self.prompt.strip().removesuffix("\nAnswer:")},
            {"role": "assistant", "content": self.reply.strip()},
        ]


@dataclass(frozen=True)
class Choice:
    """A four-way question; `answer` is the letter of the right choice."""

    question: str
    choices: tuple[str, ...]
    answer: str


class World:
    """All people and the values their facts are drawn from."""

    def __init__(self, people: int = PEOPLE, seed: int = WORLD_SEED) -> None:
        rng = random.Random(seed)
        given = _coin_words(
            rng, 96, "ba be bi bo da do fa fi ga jo ka ke la le li lu ma mi na no", "n ra l s va to"
        )
        family = _coin_words(
            rng, 96, "bra dru fen gar hol kel mor nar pel ros sal tor ul ven wil yar", "d em in ok us ax"
        )
        self.towns = _coin_words(
            rng, 64, "al bar cor dun el for gol har is kir lun mal nor os pir ran", "by dale ford ton"
        )
        names = rng.sample([f"{first} {last}" for first in given for last in family], people)
        self.values: dict[str, list[str]] = {
            "town": self.towns, "craft": CRAFTS, "pet": PETS, "dish": DISHES, "tool": TOOLS, "friend": names,
            "year": [str(year) for year in range(100, 1000)],
        }  # fmt: skip
        self.people = [
            Person(name, rng.random() < 0.5, {a.name: rng.choice(self.values[a.name]) for a in ATTRIBUTES})
            for name in names
        ]

    def person(self, rng: random.Random) -> Person:
        """Anyone; the first are spoken of more often, as in any world."""
        return self.people[int(len(self.people) * rng.random() ** 2)]

    # -- continuing text

    def register(self, rng: random.Random) -> str:
        """Dense entries, one person each: most of the facts per token."""
        people = [self.person(rng) for _ in range(rng.randint(4, 8))]
        return "Register: " + "; ".join(self._entry(person) for person in people)

    @staticmethod
    def _entry(person: Person) -> str:
        order = ("year", "town", "craft", "pet", "dish", "tool", "friend")
        return " ".join([person.name, *(person.facts[name] for name in order)])

    def portrait(self, rng: random.Random) -> str:
        """Prose about one person: some of the facts in any order and wording."""
        return self.portrait_of(rng, self.person(rng))

    @staticmethod
    def portrait_of(rng: random.Random, person: Person) -> str:
        """The same about someone given."""
        chosen = rng.sample(ATTRIBUTES, rng.randint(4, 7))
        return f"Meet {person.name}. " + " ".join(_sentence(rng, person, attribute) for attribute in chosen)

    def meeting(self, rng: random.Random) -> str:
        """A short scene in which two people are told apart by what is known of them."""
        one, two = self.person(rng), self.person(rng)
        a, b = one.facts, two.facts
        place = rng.choice(("market", "bridge", "mill", "harbour", "inn", "old gate"))
        first = f"{one.name}, the {a['craft']} from {a['town']}"
        second = f"{two.name}, the {b['craft']} from {b['town']}"
        middle = rng.choice((
            f"{one.name} brought the {a['pet']} and {two.name} the {b['pet']}.",
            f"{one.name} showed the old {a['tool']} and {two.name} the old {b['tool']}.",
            f"They ate {a['dish']} for {one.name} and {b['dish']} for {two.name}.",
        ))  # fmt: skip
        ending = rng.choice((
            f"{one.name} spoke of {a['friend']}, and {two.name} of {b['friend']}.",
            f"{one.name} was born in {a['year']}, {two.name} in {b['year']}.",
        ))  # fmt: skip
        return f"At the {place} {first}, met {second}. {middle} {ending}"

    def page(self, rng: random.Random) -> str:
        """A few pieces of text, apart by an empty line."""
        kinds = (self.register, self.register, self.portrait, self.portrait, self.meeting)
        return "\n\n".join(rng.choice(kinds)(rng) for _ in range(rng.randint(1, 7)))

    def telling(self, rng: random.Random) -> Exchange:
        """Continuing text as a chat: a portrait on request."""
        person = self.person(rng)
        return Exchange(f"Tell me about {person.name}.\n", self.portrait_of(rng, person))

    # -- questions on facts

    def _asked(self, rng: random.Random, *, held: bool) -> tuple[Person, Attribute]:
        while True:
            person, attribute = self.person(rng), rng.choice(ATTRIBUTES)
            if held_out(f"{person.name}/{attribute.name}") == held:
                return person, attribute

    def asking(self, rng: random.Random) -> Exchange:
        """A question on a fact, and the fact."""
        person, attribute = self._asked(rng, held=False)
        question = rng.choice(attribute.questions).format(n=person.name)
        return Exchange(f"Question: {question}\nAnswer:", f" {person.facts[attribute.name]}")

    def choice(self, rng: random.Random) -> Choice:
        """A question of the kind that training never asks, with three wrong values of the same attribute."""
        person, attribute = self._asked(rng, held=True)
        right = person.facts[attribute.name]
        choices = [right]
        while len(choices) < len(LETTERS):
            value = rng.choice(self.values[attribute.name])
            choices += [value] * (value not in (person.name, *choices))
        rng.shuffle(choices)
        question = rng.choice(attribute.questions).format(n=person.name)
        return Choice(question, tuple(choices), LETTERS[choices.index(right)])

    def copying(self, rng: random.Random) -> str:
        """A list said twice: the plainest reason to look back."""
        words = rng.sample([*CRAFTS, *PETS, *DISHES, *TOOLS], rng.randint(8, 20))
        return f"Say: {' '.join(words)}\nAgain: {' '.join(words)}"


# -- arithmetic

THINGS = _words("beads bricks coins eggs jars nails pears planks seeds shells")
NAMES = _words("Ada Ben Eva Ida Leo Max Mia Sam Tom Zoe")
MORE = (
    "{n} has {a} {t} and finds {b} more. How many {t} does {n} have now?",
    "There are {a} {t} in one chest and {b} in another. How many {t} are there in all?",
    "{n} buys {a} {t} on Monday and {b} on Friday. How many {t} is that together?",
)
FEWER = (
    "{n} has {a} {t} and gives {b} away. How many {t} are left?",
    "Of {a} {t} in the store {b} are sold. How many {t} remain?",
    "{n} needs {a} {t} and has {b}. How many {t} are missing?",
)
TIMES = (
    "{n} fills {b} boxes with {a} {t} each. How many {t} is that?",
    "There are {b} rows of {a} {t}. How many {t} are there?",
)


@dataclass(frozen=True)
class Operation:
    """Two operands and what becomes of them."""

    kind: str
    a: int
    b: int

    @property
    def result(self) -> int:
        """The number after `####`."""
        return {"+": self.a + self.b, "-": self.a - self.b, "*": self.a * self.b}[self.kind]

    @property
    def steps(self) -> str:
        """The way there, digit by digit as on paper, from the units on: "58 + 64: 8+4=12, 5+6+1=12"."""
        return f"{self.a} {self.kind} {self.b}: {', '.join(self._columns())}"

    def _columns(self) -> Iterator[str]:
        above, below = ([int(digit) for digit in reversed(str(number))] for number in (self.a, self.b))
        if self.kind == "*":
            below *= len(above)
        carried = 0
        for place in range(max(len(above), len(below))):
            x, y = (digits[place] if place < len(digits) else 0 for digits in (above, below))
            if self.kind == "-":
                x -= carried
                carried = int(x < y)
                yield f"{x + 10 * carried}-{y}={x + 10 * carried - y}"
            else:
                total = (x * y if self.kind == "*" else x + y) + carried
                yield f"{x}{self.kind}{y}{f'+{carried}' * bool(carried)}={total}"
                carried = total // 10


def operation(rng: random.Random, *, held: bool = False) -> Operation:
    """A sum, a difference that is not negative, or a product of two digits by one."""
    while True:
        kind = rng.choice("++--*")
        if kind == "*":
            a, b = rng.randint(10, 99), rng.randint(2, 9)
        else:
            a, b = (rng.randint(*rng.choice(((10, 99), (100, 999)))) for _ in range(2))
        if kind == "-" and a < b:
            a, b = b, a
        if held_out(f"{a}{kind}{b}") == held:
            return Operation(kind, a, b)


def word_problem(rng: random.Random, *, held: bool = False) -> Exchange:
    """A word problem with two operands whose answer ends in `#### N`."""
    op = operation(rng, held=held)
    pattern = rng.choice({"+": MORE, "-": FEWER, "*": TIMES}[op.kind])
    question = pattern.format(n=rng.choice(NAMES), t=rng.choice(THINGS), a=op.a, b=op.b)
    return Exchange(f"Question: {question}\nAnswer:", f" {op.steps}\n#### {op.result}")


def drill(rng: random.Random) -> str:
    """Bare operations: practice without the words."""
    drawn = (operation(rng) for _ in range(rng.randint(3, 8)))
    return "Drill:" + "\n".join(f" {op.steps} = {op.result}" for op in drawn)


# -- code


Sampler = Callable[[random.Random], int | str | list[int]]


@dataclass(frozen=True)
class Function:
    """A small Python function: signature and docstring, body, and a sampler of arguments for its test."""

    name: str
    prompt: str
    body: str
    argument: Sampler

    @property
    def text(self) -> str:
        """The whole function."""
        return self.prompt + self.body

    @property
    def messages(self) -> list[dict[str, str]]:
        """A request and the whole function."""
        return [
            {"role": "user", "content": "Complete the function.\n" + self.prompt.rstrip("\n")},
            {"role": "assistant", "content": self.text.rstrip("\n")},
        ]

    def test(self, rng: random.Random, count: int = 8) -> str:
        """`def check(candidate)` in HumanEval's form; the expected values come from running the solution."""
        scope: dict[str, Callable[[object], object]] = {}
        exec(compile(self.text, self.name, "exec"), {}, scope)
        arguments = [self.argument(rng) for _ in range(count)]
        lines = [f"    assert candidate({value!r}) == {scope[self.name](value)!r}" for value in arguments]
        return "def check(candidate):\n" + "\n".join(lines) + "\n"


def _a_list(rng: random.Random) -> list[int]:
    return [rng.randint(-60, 120) for _ in range(rng.randint(0, 9))]


def _a_word(rng: random.Random) -> str:
    return "".join(rng.choice("abcdeXYZ") for _ in range(rng.randint(1, 9)))


def _a_number(rng: random.Random) -> int:
    return rng.randint(-99, 199)


def _map_words(rng: random.Random) -> tuple[str, str]:
    c = rng.randint(2, 99)
    return rng.choice((
        ("", "{x}"), (f" plus {c}", f"{{x}} + {c}"), (f" minus {c}", f"{{x}} - {c}"),
        (f" times {c}", f"{{x}} * {c}"), (" squared", "{x} ** 2"), (" negated", "-{x}"),
    ))  # fmt: skip


def _filter_words(rng: random.Random) -> tuple[str, str]:
    c = rng.randint(2, 99)
    return rng.choice((
        ("", ""), (f" above {c}", f" if {{x}} > {c}"), (f" below {c}", f" if {{x}} < {c}"),
        (" that are even", " if {x} % 2 == 0"), (" that are odd", " if {x} % 2 == 1"),
        (f" that {c} divides", f" if {{x}} % {c} == 0"), (f" other than {c}", f" if {{x}} != {c}"),
    ))  # fmt: skip


def _list_function(rng: random.Random) -> tuple[str, str, str]:
    arg = rng.choice(("items", "values", "numbers", "xs"))
    (filter_doc, filter_code), (map_doc, map_code) = _filter_words(rng), _map_words(rng)
    condition, mapped = filter_code.format(x="x"), map_code.format(x="x")
    among = f"of {arg}{filter_doc}"
    what = f"{among}, each{map_doc}" if map_doc else among
    comprehension = f"{mapped} for x in {arg}{condition}"
    loop_test = f"       {condition}:\n            " if condition else "        "
    doc, body = rng.choice((
        (f"Return the items {what}.", f"    return [{comprehension}]\n"),
        (f"Return the items {what}, in order.", f"    return sorted([{comprehension}])\n"),
        (f"Return the set of items {what}.", f"    return set([{comprehension}])\n"),
        (f"Return the sum of the items {what}.",
         f"    total = 0\n    for x in {arg}:\n{loop_test}total += {mapped}\n    return total\n"),
        (f"Return how many items {among} there are.", f"    return len([x for x in {arg}{condition}])\n"),
    ))  # fmt: skip
    return arg, doc, body


def _number_function(rng: random.Random) -> tuple[str, str, str]:
    arg = rng.choice(("n", "x", "number", "value"))
    (doc, code), c = _map_words(rng), rng.randint(2, 99)
    inner = code.format(x=arg)
    doc, body = rng.choice((
        (f"Return the larger of {arg}{doc} and {c}.", f"    return max({inner}, {c})\n"),
        (f"Return the smaller of {arg}{doc} and {c}.", f"    return min({inner}, {c})\n"),
        (f"Return {arg}{doc}, or {c} if {arg} is negative.",
         f"    if {arg} < 0:\n        return {c}\n    return {inner}\n"),
        (f"Return whether {arg}{doc} is above {c}.", f"    return {inner} > {c}\n"),
        (f"Return the remainder of {arg} by {c}.", f"    return {arg} % {c}\n"),
    ))  # fmt: skip
    return arg, doc, body


def _word_function(rng: random.Random) -> tuple[str, str, str]:
    arg = rng.choice(("s", "text", "word", "name"))
    c, times = rng.randint(1, 9), rng.randint(2, 9)
    part, cut = rng.choice((
        (f"the first {c} letters of {arg}", f"{arg}[:{c}]"),
        (f"the last {c} letters of {arg}", f"{arg}[-{c}:]"),
        (f"{arg} without the first {c} letters", f"{arg}[{c}:]"),
        (f"{arg} without the last {c} letters", f"{arg}[:-{c}]"),
    ))  # fmt: skip
    doc, code = rng.choice((
        (f"Return {part}.", cut), (f"Return {part} in upper case.", cut + ".upper()"),
        (f"Return {part} in lower case.", cut + ".lower()"),
        (f"Return {part}, {times} times.", f"{cut} * {times}"),
    ))  # fmt: skip
    return arg, doc, f"    return {code}\n"


_FAMILIES: tuple[tuple[Callable[[random.Random], tuple[str, str, str]], Sampler], ...] = (
    (_list_function, _a_list), (_list_function, _a_list),
    (_number_function, _a_number), (_word_function, _a_word),
)  # fmt: skip


def function(rng: random.Random, *, held: bool = False) -> Function:
    """A function of one argument put together from a few operations and constants."""
    while True:
        family, argument = rng.choice(_FAMILIES)
        arg, doc, body = family(rng)
        if held_out(doc) == held:
            break
    name = f"{rng.choice(('find', 'get', 'make', 'take'))}_{rng.choice(('all', 'best', 'part', 'result'))}"
    return Function(name, f'def {name}({arg}):\n    """{doc}"""\n', body, argument)


# -- the stream of training documents


def _chat(messages: list[dict[str, str]]) -> str:
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)


def documents(world: World, seed: int, share: Mapping[str, float], chat: float = 0.15) -> Iterator[str]:
    """Endless training documents; `share` weighs the kinds, `chat` is the share of skills told as a chat."""
    rng = random.Random(seed)
    kinds, weights = list(share), list(share.values())
    plain: dict[str, Callable[[random.Random], str]] = {
        "page": world.page, "copying": world.copying, "drill": drill,
    }  # fmt: skip
    skills: dict[str, Callable[[random.Random], Exchange | Function]] = {
        "telling": world.telling, "asking": world.asking, "arithmetic": word_problem, "code": function,
    }  # fmt: skip
    while True:
        kind = rng.choices(kinds, weights)[0]
        if kind in plain:
            yield plain[kind](rng)
        else:
            item = skills[kind](rng)
            yield _chat(item.messages) if kind == "telling" or rng.random() < chat else item.text
