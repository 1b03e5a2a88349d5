"""Reports: what was measured, as one versioned document, and what people read from it.

:mod:`perfopt.report.document` is the document and its file; everything else in here reads it and nothing else: the page
(``perfopt report``), the comparison of two runs (``perfopt compare``) and the findings.
"""

from __future__ import annotations

from perfopt.report.document import Report, load, save

__all__ = ["Report", "load", "save"]
