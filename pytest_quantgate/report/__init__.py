"""The report: all that a reporter sees, as one versioned JSON value."""

from pytest_quantgate.report.answers import Answers
from pytest_quantgate.report.capabilities import Capability
from pytest_quantgate.report.changes import Change
from pytest_quantgate.report.document import FORMAT, VERSION, Report, build
from pytest_quantgate.report.findings import Finding
from pytest_quantgate.report.rows import Problem, Result, Row, Status, StepRecord
from pytest_quantgate.report.selftest import Trial

__all__ = [
    "FORMAT",
    "VERSION",
    "Answers",
    "Capability",
    "Change",
    "Finding",
    "Problem",
    "Report",
    "Result",
    "Row",
    "Status",
    "StepRecord",
    "Trial",
    "build",
]
