"""Try every hostile file and print a summary; exit 1 if one does not give its error."""

from __future__ import annotations

import logging
import sys

from .corpus import CASES, difference, try_all

logging.disable(logging.WARNING)
outcomes = try_all()
differences = [line for case in CASES if (line := difference(case, outcomes[str(case)].error))]
for line in differences:
    print(line)
times = sorted((outcome.seconds, name) for name, outcome in outcomes.items())
p50, p99 = (1e3 * times[len(times) * percent // 100][0] for percent in (50, 99))
print(f"{len(CASES)} hostile files, {len(differences)} unexpected; p50 {p50:.2f} ms, p99 {p99:.2f} ms")
print("slowest:", ", ".join(f"{name} {1e3 * seconds:.1f} ms" for seconds, name in times[-5:]))
sys.exit(bool(differences))
