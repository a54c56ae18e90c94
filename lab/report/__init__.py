"""Verdicts and the reports made of them."""
