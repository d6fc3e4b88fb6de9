"""Audit: what is wrong with a set of radiographs, found by looking; every threshold is written beside its check."""

from cxr_common.cohorts.audit.checks import LEVELS, audit
from cxr_common.cohorts.audit.measures import file_facts
from cxr_common.cohorts.audit.report import count_table, html

__all__ = ["LEVELS", "audit", "count_table", "file_facts", "html"]
