"""Cells that come to every verdict there is, for a report to look at: `make report-sample`."""
