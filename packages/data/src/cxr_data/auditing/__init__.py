"""Audit of a cohort: leaks, duplicates, odd images and shortcuts; every threshold is written beside its check."""

from cxr_data.auditing.checks import LEVELS, audit
from cxr_data.auditing.measures import file_facts
from cxr_data.auditing.report import count_table, html, totals

__all__ = ["LEVELS", "audit", "count_table", "file_facts", "html", "totals"]
