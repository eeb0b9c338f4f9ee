"""How fast a model runs here, next to what this computer could do: `tuili bench`.

It measures and judges nothing; every rate comes with its spread, because on a shared machine a number alone
looks like a fact.
"""

from tuili.benchmark.measure import Plan, measure
from tuili.benchmark.report import charts, html, svg, table

__all__ = ["Plan", "charts", "html", "measure", "svg", "table"]
