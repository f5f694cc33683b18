"""The report: all that a reporter sees, as one versioned JSON value."""

from pytest_quantgate.report.document import FORMAT, VERSION, Report, build
from pytest_quantgate.report.rows import Problem, Result, Row, Status, StepRecord

__all__ = ["FORMAT", "VERSION", "Problem", "Report", "Result", "Row", "Status", "StepRecord", "build"]
