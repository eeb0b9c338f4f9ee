"""The numbers 0 to 9999 in Chinese and in English words: for training and for tests."""

# ruff: noqa: SIM905
from __future__ import annotations

DIGITS_ZH = "零一二三四五六七八九"
SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()

ALL = range(10_000)
HELD_OUT = frozenset(n for n in ALL if n * 7919 % 10_007 < 1000)  # not trained on


def chinese(n: int) -> str:
    """一千零五, 三百一十二."""
    if n == 0:
        return "零"
    text, gap = "", False
    for unit, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = n // unit % 10
        if digit:
            text += "零" * (gap and text != "") + DIGITS_ZH[digit] + name
        gap = digit == 0
    return text.removeprefix("一") if 10 <= n < 20 else text


def english(n: int) -> str:
    """one thousand five, three hundred twelve."""
    words = []
    if n >= 1000:
        words += [SMALL[n // 1000], "thousand"]
    if n // 100 % 10:
        words += [SMALL[n // 100 % 10], "hundred"]
    rest = n % 100
    if rest >= 20:
        words.append(TENS[rest // 10 - 2] + (f"-{SMALL[rest % 10]}" if rest % 10 else ""))
    elif rest or n == 0:
        words.append(SMALL[rest])
    return " ".join(words)


WORDS = {"zh": chinese, "en": english}
