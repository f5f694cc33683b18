r"""GSM8K: grade-school mathematics, answered in words that end in a number (Cobbe et al., 2021).

gsm8k          share of right answers; higher is better. Read strictly, but flexibly in a conversation.
`.strict`      read from what follows "#### " alone; `.flexible` from the last number (lm-evaluation-harness's filters).
`.form`        share of answers that have a number after "#### ": the form that was asked for, right or wrong.

Two forms: after 8 worked examples, the first of the training split, as "Question: …\nAnswer: …"; or, with `chat`, the
bare question and what is wanted, through the chat template.

Data: `openai/gsm8k` of the hub, a folder with test.jsonl and train.jsonl, or one file.
"""

from __future__ import annotations

from pytest_quantgate.tasks.questions import PROMPTS, Questions, as_answer
from pytest_quantgate.tasks.task import Task, definition
from pytest_quantgate.tasks.ways import ANSWERS

__all__ = ["GSM8K", "TASK"]

CHAT = "{question}\nThink step by step. End with a line of its own: #### and the number."

TASK = Task(
    "gsm8k",
    Questions(as_answer, {**PROMPTS, "chat_prompt": CHAT}, shots=8, hub=("openai/gsm8k", "main")),
    ANSWERS,
)
GSM8K = definition(
    "gsm8k",
    "GSM8K: share of right answers",
    "mathematics",
    observer="pytest_quantgate.metrics.gsm8k:TASK",
    task=TASK,
)
