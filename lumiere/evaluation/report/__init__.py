"""The report of an evaluation: one page, plots for `dvc plots`, and what changed since the last run."""

from lumiere.evaluation.report.changes import parse_metrics, previous_metrics, summary
from lumiere.evaluation.report.content import (
    Curve,
    Previous,
    ReportContent,
    SensitivityRow,
    Slice,
    StyleRow,
    WallEntry,
)
from lumiere.evaluation.report.page import write_changes, write_report

__all__ = [
    "Curve",
    "Previous",
    "ReportContent",
    "SensitivityRow",
    "Slice",
    "StyleRow",
    "WallEntry",
    "parse_metrics",
    "previous_metrics",
    "summary",
    "write_changes",
    "write_report",
]
