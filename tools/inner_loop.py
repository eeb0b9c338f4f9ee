"""The instructions of a kernel's loop over tiles, as nvdisasm prints them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

CLASSES = {  # the first that matches
    "mma": r"[HI]MMA",
    "ldmatrix": r"LDSM",
    "shared": r"(LDS|STS)\b",
    "cp_async": r"LDGSTS",
    "global": r"(LDG|STG|LD|ST)\b",
    "float": r"(FADD|FMUL|FFMA|FSEL|FMNMX|FSETP|FSET|HADD2|HMUL2|HFMA2|MUFU|F2F|F2FP|I2F|I2FP|F2I)\b",
    "waits": r"(BAR|LDGDEPBAR|DEPBAR|WARPSYNC|BSSY|BSYNC|BRA|SHFL|VOTE|VOTEU|NOP|EXIT|CALL)\b",
    "integers": r"",  # addresses, predicates, bits, moves
}
# What every trip does: a branch around one of these is not taken.
NEEDED = re.compile(CLASSES["mma"] + r"|LDSM|LDGSTS|LDG\b")


@dataclass(frozen=True)
class Instruction:
    name: str  # with its modifiers
    target: str | None  # the label that it branches to


def parse(section: str) -> tuple[list[Instruction], dict[str, int]]:
    """Instructions of a kernel's section, and the place of each label among them."""
    code: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in section.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(code)
        elif found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\S+)(.*)", line):
            target = (
                re.search(r"`\((\.L_x_\d+)\)", found[2]) if re.fullmatch(r"BRA(\.U)?", found[1]) else None
            )
            code.append(Instruction(found[1], target[1] if target else None))
    return code, labels


def count(code: list[Instruction], labels: dict[str, int], begin: int, end: int) -> Counter[str]:
    """Of one trip from `begin` to the branch at `end`: the fewest, that is with every branch taken that
    skips nothing needed. Loops in between are gone through once."""
    mix: Counter[str] = Counter()
    i = begin
    while i <= end:
        here = code[i]
        mix[next(name for name, pattern in CLASSES.items() if re.match(pattern, here.name))] += 1
        after = labels.get(here.target, -1) if here.target else -1
        i += 1
        if i <= after <= end and not any(NEEDED.match(skipped.name) for skipped in code[i:after]):
            i = after
    return mix


def mix_of(section: str) -> dict[str, int]:
    """Of a trip of the longest loop with tensor-core instructions, by class; {} where there is none."""
    code, labels = parse(section)
    ends = [(labels[one.target], i) for i, one in enumerate(code) if one.target and labels[one.target] <= i]
    # What comes back from behind the end is the way round for a warp that is apart, no loop.
    ends = [(begin, end) for begin, end in ends if all(one.name != "EXIT" for one in code[begin:end])]
    loops = [loop for loop in ends if count(code, labels, *loop)["mma"]]
    if not loops:
        return {}
    longest = max(loops, key=lambda loop: loop[1] - loop[0])
    return dict(sorted(count(code, labels, *longest).items()))
