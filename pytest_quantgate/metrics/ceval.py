"""C-Eval: 52 subjects in Chinese, four choices each, scored by the likelihood of the letter (Huang et al., 2023).

ceval          share of right answers over all questions of the validation split; higher is better. (The test split's
               answers are not public.)
`.macro`       mean over subjects of their accuracy, which the paper's tables show.
ceval("hard")  one of stem, social_science, humanities, other, hard, or a subject: of the same pass.

Data: `ceval/ceval-exam` of the hub, or a folder with the original files `<split>/<subject>_<split>.csv`.
Settings: `shots` (5), `subjects` (all), `split` ("val"), `limit` (the first so many of each subject).
"""

from __future__ import annotations

from pytest_quantgate.tasks.exams import Exam
from pytest_quantgate.tasks.task import Task, definition
from pytest_quantgate.tasks.ways import CHOICES

__all__ = ["CEVAL", "TASK"]

SUBJECTS = {
    "stem": {
        "computer_network": "计算机网络",
        "operating_system": "操作系统",
        "computer_architecture": "计算机组成",
        "college_programming": "大学编程",
        "college_physics": "大学物理",
        "college_chemistry": "大学化学",
        "advanced_mathematics": "高等数学",
        "probability_and_statistics": "概率统计",
        "discrete_mathematics": "离散数学",
        "electrical_engineer": "注册电气工程师",
        "metrology_engineer": "注册计量师",
        "high_school_mathematics": "高中数学",
        "high_school_physics": "高中物理",
        "high_school_chemistry": "高中化学",
        "high_school_biology": "高中生物",
        "middle_school_mathematics": "初中数学",
        "middle_school_biology": "初中生物",
        "middle_school_physics": "初中物理",
        "middle_school_chemistry": "初中化学",
        "veterinary_medicine": "兽医学",
    },
    "social_science": {
        "college_economics": "大学经济学",
        "business_administration": "工商管理",
        "marxism": "马克思主义基本原理",
        "mao_zedong_thought": "毛泽东思想和中国特色社会主义理论体系概论",
        "education_science": "教育学",
        "teacher_qualification": "教师资格",
        "high_school_politics": "高中政治",
        "high_school_geography": "高中地理",
        "middle_school_politics": "初中政治",
        "middle_school_geography": "初中地理",
    },
    "humanities": {
        "modern_chinese_history": "近代史纲要",
        "ideological_and_moral_cultivation": "思想道德修养与法律基础",
        "logic": "逻辑学",
        "law": "法学",
        "chinese_language_and_literature": "中国语言文学",
        "art_studies": "艺术学",
        "professional_tour_guide": "导游资格",
        "legal_professional": "法律职业资格",
        "high_school_chinese": "高中语文",
        "high_school_history": "高中历史",
        "middle_school_history": "初中历史",
    },
    "other": {
        "civil_servant": "公务员",
        "sports_science": "体育学",
        "plant_protection": "植物保护",
        "basic_medicine": "基础医学",
        "clinical_medicine": "临床医学",
        "urban_and_rural_planner": "注册城乡规划师",
        "accountant": "注册会计师",
        "fire_engineer": "注册消防工程师",
        "environmental_impact_assessment_engineer": "环境影响评价工程师",
        "tax_accountant": "税务师",
        "physician": "医师资格",
    },
}
HARD = [
    "advanced_mathematics",
    "discrete_mathematics",
    "probability_and_statistics",
    "college_chemistry",
    "college_physics",
    "high_school_mathematics",
    "high_school_chemistry",
    "high_school_physics",
]

TASK = Task(
    "ceval",
    Exam(
        hub="ceval/ceval-exam",
        subjects={name: title for titles in SUBJECTS.values() for name, title in titles.items()},
        categories={**{name: list(titles) for name, titles in SUBJECTS.items()}, "hard": HARD},
        head="以下是中国关于{subject}的单项选择题，请选出其中的正确答案。\n\n",  # noqa: RUF001  Chinese punctuation
        cue="答案：",  # noqa: RUF001
        split="val",
    ),
    CHOICES,
)
CEVAL = definition(
    "ceval",
    "C-Eval: share of right answers",
    "Chinese",
    observer="pytest_quantgate.metrics.ceval:TASK",
    task=TASK,
)
