"""Reports that may be shown to others: without host name, command line and ``extra``, and without any path.

Where a path ends cannot be told from a text: folders have spaces, quotes and brackets in their names. Therefore, from
where a path *begins*, all of the text is hidden; only the subject of a finding is known to end where it does, and spares the
rest of the finding's sentences.

A path begins at a root, a drive, a share, a home, a dot folder or a URL. A relative one shows by a backslash, or by a slash
with a file name with an extension after it; then the whole text is hidden, since its first folder may have spaces as well. A
relative folder (``data/train``) cannot be told from a name of an operation (``train/step``), and stays, as does the first folder
of a relative path if its name ends in a space, a quote, an opening bracket or one of ``=:,``, like a word before a path.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from perfopt.report import document
from perfopt.report.compare import Comparison
from perfopt.report.document import Finding, Report

__all__ = ["cleaned", "confidential", "confidential_difference"]

_T = TypeVar("_T")

# Every alternative begins where no other match of it can go on, or long texts would take quadratic time.
_BEGIN = re.compile(
    r"(?<![\w+.-])[A-Za-z][\w+.-]*://"  # a URL, also of a file
    r"|(?<![^\W\d_])[A-Za-z]:[\\/]"  # a drive
    r"|\\\\"  # a share
    r"|(?<![\w/\\])(?:/|(?:~[\w.-]*|\.{1,2})[\\/])"  # the root, a home, a dot folder
    r"|(?<![\w/\\-])--?[A-Za-z][\w-]*(?:[/~]|\.{1,2}[\\/])"  # any of these glued to an option (-I/usr)
)
_APART = re.compile(
    r"""(?:\A|[\s'"`(\[{<=:,])\Z"""
)  # ends what is no part of the path; a folder may end in other characters
_SEPARATOR = re.compile(r"[/\\]")
_WEB = re.compile(r"(?<![\w+.-])(?:https?|wss?|ftp)://[^\s'\"<>|)\]}]+")  # no spaces in these: what follows is kept
_RATE = re.compile(r"(?<=\w)/s\b(?![/\\.])")
_RELATIVE = re.compile(r"\\|/(?=[^/]*?\.[A-Za-z]\w{0,7}(?!\w))")


class _Cleaner:
    """Hides paths and numbers what it hid, equal texts alike."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def _number(self, path: str) -> str:
        return f"<path {self._numbers.setdefault(path, len(self._numbers) + 1)}>"

    def text(self, text: str) -> str:
        """The text up to where a path begins."""
        if "/" not in text and "\\" not in text:
            return text
        text = _WEB.sub(lambda match: self._number(match[0]), text)
        found = _BEGIN.search(text)
        if found is None:
            return self._number(text) if _RELATIVE.search(_RATE.sub("", text)) else text
        before = text[: found.start()]
        if _SEPARATOR.search(_RATE.sub("", before)) or not _APART.search(before):
            return self._number(text)  # what was found may be inside of a relative path
        return before + self._number(text[found.start() :])

    def finding(self, finding: Finding) -> Finding:
        """The finding, its subject hidden in its sentences where nothing after it looks like the rest of a longer path."""
        subject = self.text(finding.subject)

        def sentence(words: str) -> str:
            if subject == finding.subject:
                return self.text(words)
            before, found, after = words.partition(finding.subject)
            if not found or _SEPARATOR.search(_RATE.sub("", after)):
                return self.text(words)
            return self.text(before) + subject + after

        cleaned: Finding = document.map_texts(
            msgspec.structs.replace(finding, subject="", evidence="", advice=""), self.text
        )
        return msgspec.structs.replace(
            cleaned, subject=subject, evidence=sentence(finding.evidence), advice=sentence(finding.advice)
        )


def confidential(report: Report) -> Report:
    """The report without what tells about its owner; paths are numbered, equal ones alike. Names of operations stay."""
    return confidential_difference(report, None)[0]


def confidential_difference(report: Report, comparison: Comparison | None) -> tuple[Report, Comparison | None]:
    """The same for a report and its difference from another, with one numbering."""
    cleaner = _Cleaner()
    host = msgspec.structs.replace(report.host, name=None)
    rest = msgspec.structs.replace(report, host=host, command=None, extra={}, findings=[])
    cleaned_report, cleaned_comparison = document.map_texts((rest, comparison), cleaner.text)
    findings = [cleaner.finding(finding) for finding in report.findings]
    return msgspec.structs.replace(cleaned_report, findings=findings), cleaned_comparison


def cleaned(value: _T) -> _T:
    """value with the paths in all its texts hidden."""
    result: _T = document.map_texts(value, _Cleaner().text)
    return result
