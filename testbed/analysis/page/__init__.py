"""A report as one HTML file: it loads nothing, and its figures can be hovered and zoomed."""

from testbed.analysis.page.page import MOST_EACH, Origin, html_page

__all__ = ["MOST_EACH", "Origin", "html_page"]
