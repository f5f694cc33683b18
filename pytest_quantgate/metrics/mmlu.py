"""MMLU: 57 subjects, four choices each, scored by the log-likelihood of the answer's letter (Hendrycks et al., 2021).

mmlu           share of right answers over all questions ("item-averaged", as the paper's total); higher is better.
`.macro`       mean over subjects of their accuracy ("subject-averaged").
mmlu("stem")   one of stem, humanities, social_sciences, other, or a subject: of the same pass, not another one.

Data: `cais/mmlu` of the hub, or a folder with the original files `<split>/<subject>_<split>.csv`, which have no header.
Settings: `shots` (5), `subjects` (all), `split` ("test"), `limit` (the first so many of each subject).
"""

from __future__ import annotations

from pytest_quantgate.tasks.exams import LETTERS, Exam
from pytest_quantgate.tasks.task import Task, definition
from pytest_quantgate.tasks.ways import CHOICES

__all__ = ["MMLU", "TASK"]

CATEGORIES = {
    "stem": [
        "abstract_algebra",
        "anatomy",
        "astronomy",
        "college_biology",
        "college_chemistry",
        "college_computer_science",
        "college_mathematics",
        "college_physics",
        "computer_security",
        "conceptual_physics",
        "electrical_engineering",
        "elementary_mathematics",
        "high_school_biology",
        "high_school_chemistry",
        "high_school_computer_science",
        "high_school_mathematics",
        "high_school_physics",
        "high_school_statistics",
        "machine_learning",
    ],
    "humanities": [
        "formal_logic",
        "high_school_european_history",
        "high_school_us_history",
        "high_school_world_history",
        "international_law",
        "jurisprudence",
        "logical_fallacies",
        "moral_disputes",
        "moral_scenarios",
        "philosophy",
        "prehistory",
        "professional_law",
        "world_religions",
    ],
    "social_sciences": [
        "econometrics",
        "high_school_geography",
        "high_school_government_and_politics",
        "high_school_macroeconomics",
        "high_school_microeconomics",
        "high_school_psychology",
        "human_sexuality",
        "professional_psychology",
        "public_relations",
        "security_studies",
        "sociology",
        "us_foreign_policy",
    ],
    "other": [
        "business_ethics",
        "clinical_knowledge",
        "college_medicine",
        "global_facts",
        "human_aging",
        "management",
        "marketing",
        "medical_genetics",
        "miscellaneous",
        "nutrition",
        "professional_accounting",
        "professional_medicine",
        "virology",
    ],
}

TASK = Task(
    "mmlu",
    Exam(
        hub="cais/mmlu",
        whole="all",
        subjects={name: name.replace("_", " ") for names in CATEGORIES.values() for name in names},
        categories=CATEGORIES,
        head="The following are multiple choice questions (with answers) about {subject}.\n\n",
        cue="Answer:",
        split="test",
        columns=("question", *LETTERS, "answer"),
        hub_splits={"val": "validation"},
    ),
    CHOICES,
)
MMLU = definition(
    "mmlu",
    "MMLU: share of right answers",
    "knowledge",
    observer="pytest_quantgate.metrics.mmlu:TASK",
    task=TASK,
)
