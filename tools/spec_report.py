"""Lists which numbered rows of the source documents a passing test run has shown. Usage: spec_report.py [--missing]

Reads ``docs/spec_rows.csv`` (every row's id and feature), ``docs/spec.md`` (rows answered differently on purpose, with the
reason) and ``build/spec/shown.json`` (written by the test run through ``@pytest.mark.spec``).
"""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    with (ROOT / "docs" / "spec_rows.csv").open(newline="") as file:
        rows = {row["id"]: row["feature"] for row in csv.DictReader(file)}
    shown_file = ROOT / "build" / "spec" / "shown.json"
    if not shown_file.exists():
        print("no test run to read: run `make test` first", file=sys.stderr)
        return 1
    outcomes = json.loads(shown_file.read_text())
    unknown = sorted(set(outcomes) - set(rows))
    if unknown:
        print(f"tests are marked with rows that do not exist: {', '.join(unknown)}", file=sys.stderr)
        return 1
    differently = dict(re.findall(r"^\| (S\d-\d\d) \| (.+?) \|$", (ROOT / "docs" / "spec.md").read_text(), re.M))
    shown = [row for row in rows if outcomes.get(row, {}).get("passed") and not outcomes[row]["failed"]]
    broken = [row for row in rows if outcomes.get(row, {}).get("failed")]
    print(f"{len(shown)} of {len(rows)} rows are shown by a passing test:")
    for row in shown:
        print(f"  {row}  {rows[row]}  ({len(outcomes[row]['passed'])} tests)")
    print(f"\nanswered differently on purpose ({len(differently)}), see docs/spec.md:")
    for row, reason in differently.items():
        print(f"  {row}  {reason}")
    missing = [row for row in rows if row not in shown and row not in differently and row not in broken]
    print(f"\nnot shown yet: {len(missing)}")
    if "--missing" in sys.argv:
        for row in missing:
            print(f"  {row}  {rows[row]}")
    for row in broken:
        print(f"FAILING  {row}  {rows[row]}: {', '.join(outcomes[row]['failed'])}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
