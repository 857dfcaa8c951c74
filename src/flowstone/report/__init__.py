"""The report of a run: one HTML file that opens from disk and shows what was learned, and how well."""

from flowstone.report.section import Section
from flowstone.report.subject import Subject
from flowstone.report.write import REPORT, report_page, write_report

__all__ = ["REPORT", "Section", "Subject", "report_page", "write_report"]
