"""Plain-text tables for the acceptance scripts."""

from __future__ import annotations

from collections.abc import Sequence


class Table:
    """Prints rows as they come, in columns of fixed widths, and remembers whether one failed."""

    def __init__(self, **widths: int) -> None:
        self._widths = list(widths.values())
        self.passed, self._n_rows = True, 0
        self._print([name.replace("_", " ") for name in widths] + [""])
        self._print(["-" * width for width in self._widths] + [""])

    def row(self, cells: Sequence[object], *, passed: bool) -> None:
        """One line; a row that did not pass makes the whole table fail."""
        self.passed &= passed
        self._n_rows += 1
        self._print([str(cell) for cell in cells] + ["ok" if passed else "FAILED"])

    def finish(self) -> int:
        """The exit status: 0 if every row passed, otherwise 1; and 1 if there is none."""
        if not self._n_rows:
            print("nothing was compared")
            return 1
        print("all passed" if self.passed else "some rows FAILED")
        return 0 if self.passed else 1

    def _print(self, cells: Sequence[str]) -> None:
        columns = [cell.ljust(width) for cell, width in zip(cells, self._widths, strict=False)]
        print("  ".join([*columns, cells[-1]]).rstrip(), flush=True)
