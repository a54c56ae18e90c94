"""The report as a folder of HTML pages that need nothing but themselves."""
