"""Templated English and Chinese sentences with answers that follow from them: for training and for tests.

Each maker takes a random.Random and gives one example. Names are drawn from lists, combinations are new.
"""

# ruff: noqa: SIM905
from __future__ import annotations

import random
from typing import Any

FIRST = "ada alan grace linus marie niels rosa otto ines omar yuki zoe".split()
LAST = "adams brown clark davis evans frank green hill irwin jones king lewis".split()
CITIES = "paris london berlin madrid oslo rome vienna dublin lisbon prague warsaw athens".split()
FIRMS = "acme globex initech umbra vertex zenith nova orbit pixel quartz".split()
PEOPLE_ZH = ["王明", "李华", "张伟", "刘洋", "陈静", "杨帆", "赵磊", "黄丽", "周强", "吴敏"]
CITIES_ZH = ["北京", "上海", "广州", "深圳", "杭州", "南京", "成都", "武汉", "西安", "天津"]
FIRMS_ZH = ["长江公司", "东方银行", "华夏学院", "中原医院", "星海集团", "南山工厂"]

GOOD = "good great wonderful excellent lovely perfect".split()
BAD = "bad awful terrible horrible poor dreadful".split()
THINGS = "film book meal hotel song game room trip".split()
GOOD_ZH, BAD_ZH = ["好看", "优秀", "精彩", "满意", "舒服"], ["难看", "糟糕", "无聊", "失望", "恶心"]
THINGS_ZH = ["电影", "书", "饭菜", "酒店", "歌曲", "游戏"]


def words() -> list[str]:
    """Every word and character that the makers use, as BERT's rules cut them."""
    texts = [*FIRST, *LAST, *CITIES, *FIRMS, *GOOD, *BAD, *THINGS]
    texts += "the a was is i found it really quite very not never at all but and".split()
    texts += "lives works in for where does who live work from met yesterday said that , . ? !".split()
    chinese = (
        "".join(
            [
                *PEOPLE_ZH,
                *CITIES_ZH,
                *FIRMS_ZH,
                *GOOD_ZH,
                *BAD_ZH,
                *THINGS_ZH,
                "这部那个我觉得真的很非常并不一点也没有吗",
            ]
        )
        + "在住工作哪里家谁昨天见到了说，。？！位于为和、不"
    )
    return list(dict.fromkeys([*texts, *chinese]))


def sentiment(rng: random.Random) -> tuple[str, str]:
    """(text, "positive" or "negative"); a negation turns it round, and two clauses say the same."""
    positive = rng.random() < 0.5
    chinese = rng.random() < 0.5
    clauses = [(_clause_zh if chinese else _clause)(rng, positive) for _ in range(rng.choice([1, 1, 2]))]
    text = ("，" if chinese else rng.choice([" and ", ", and ", ", "])).join(clauses)
    return text + rng.choice("。！" if chinese else ".!"), "positive" if positive else "negative"


def _clause(rng: random.Random, positive: bool) -> str:
    negated = rng.random() < 0.4
    word, adverb = (
        rng.choice(GOOD if positive != negated else BAD),
        rng.choice(["", "really ", "quite ", "very "]),
    )
    thing = f"the {rng.choice(THINGS)}"
    return rng.choice([
        f"{thing} was {'not ' * negated}{adverb}{word}",
        f"{thing} is {rng.choice(['not ', 'not at all ', 'never ']) * negated}{adverb}{word}",
        f"it was {'not ' * negated}{adverb}{word}",
        f"i {'never ' * negated}found {rng.choice([thing, 'it'])} {adverb}{word}",
    ])  # fmt: skip


def _clause_zh(rng: random.Random, positive: bool) -> str:
    negated = rng.random() < 0.4
    word, thing = rng.choice(GOOD_ZH if positive != negated else BAD_ZH), rng.choice(THINGS_ZH)
    adverb = rng.choice(["并不", "一点也不", "不"] if negated else ["", "真的", "很", "非常", "真的很"])
    return rng.choice([
        f"这部{thing}{adverb}{word}", f"那个{thing}{adverb}{word}", f"{thing}{adverb}{word}",
        f"我觉得{rng.choice(['那个', '这部', ''])}{thing}{adverb}{word}",
    ])  # fmt: skip


Parts = list[Any]  # texts, and (label, words) of entities


def entities(rng: random.Random) -> tuple[str, list[tuple[str, str]]]:
    """(text, the entities in their order as (label, words)); one or two clauses."""
    chinese = rng.random() < 0.5
    parts: Parts = []
    for _ in range(rng.choice([1, 1, 2])):
        parts += [" "] * (bool(parts) and not chinese) + (_told_zh if chinese else _told)(rng)
    text = "".join(part if isinstance(part, str) else part[1] for part in parts)
    return text, [part for part in parts if not isinstance(part, str)]


def _told(rng: random.Random) -> Parts:
    one, two, three = (("PER", f"{rng.choice(FIRST)} {rng.choice(LAST)}") for _ in range(3))
    city, firm = ("LOC", rng.choice(CITIES)), ("ORG", rng.choice(FIRMS))
    told = rng.choice([
        [one, " works at ", firm, " in ", city], [one, " met ", two, " in ", city, " yesterday"],
        ["yesterday ", firm, " said that ", one, " lives in ", city], [one, " lives in ", city],
        [one, " lives in ", city, " and works at ", firm], [one, " works at ", firm],
        [one, " and ", two, " met ", three, " in ", city], [one, " and ", two, " live in ", city],
        [firm, " is in ", city], [one, ", ", two, " and ", three, " work at ", firm],
        [firm, " said that ", one, " was in ", city, " and ", two, " at ", firm],
        [rng.choice(["the film was very good", "i found it", "it was not at all good"])],
    ])  # fmt: skip
    return [*told, rng.choice(".!")]


def _told_zh(rng: random.Random) -> Parts:
    one, two, three = (("PER", name) for name in rng.sample(PEOPLE_ZH, 3))
    city, firm = ("LOC", rng.choice(CITIES_ZH)), ("ORG", rng.choice(FIRMS_ZH))
    told = rng.choice([
        [one, "在", city, "的", firm, "工作"], ["昨天", one, "在", city, "见到了", two],
        [firm, "说", one, "住在", city], [one, "住在", city, "，在", firm, "工作"], [one, "住在", city],
        [one, "和", two, "昨天在", city, "见到了", three], [one, "、", two, "和", three, "在", firm, "工作"],
        [firm, "位于", city], ["昨天", firm, "说", one, "和", two, "在", city],
        [rng.choice(["这部电影很精彩", "我觉得很好看", "我昨天见到了"])],
    ])  # fmt: skip
    return [*told, rng.choice("。！")]


def question(rng: random.Random) -> tuple[str, str, str, int]:
    """(question, context, the answer in it, where it begins); the context says where up to three people live
    and work, and what somebody said of another, in any order.
    """
    n = rng.randint(1, 3)
    if rng.random() < 0.5:
        people, cities, firms = (rng.sample(names, n + 1) for names in (PEOPLE_ZH, CITIES_ZH, FIRMS_ZH))
        lives, said = "{p}住在{c}，在{f}工作。", "昨天{f}说{p}在{c}。"
        asked_of_lives = {
            "{p}住在哪里？": "c", "{p}在哪里工作？": "f", "谁住在{c}？": "p", "谁在{f}工作？": "p",
        }  # fmt: skip
        asked_of_said = {"昨天{p}在哪里？": "c", "谁说{p}在{c}？": "f"}
    else:
        people = list(map(" ".join, zip(rng.sample(FIRST, n + 1), rng.sample(LAST, n + 1), strict=True)))
        cities, firms = rng.sample(CITIES, n + 1), rng.sample(FIRMS, n + 1)
        lives, said = "{p} lives in {c} and works at {f}. ", "yesterday {f} said that {p} was in {c}. "
        asked_of_lives = {
            "where does {p} live?": "c", "where does {p} work?": "f", "who lives in {c}?": "p",
            "who works at {f}?": "p",
        }  # fmt: skip
        asked_of_said = {"where was {p}?": "c", "who said that {p} was in {c}?": "f"}
    facts = [dict(zip("pcf", names, strict=True)) for names in zip(people, cities, firms, strict=True)]
    told = [(lives, fact) for fact in facts[1:]] + [(said, facts[0])]
    rng.shuffle(told)
    about = rng.choice([(lives, facts[1]), (lives, facts[1]), (said, facts[0])])
    text, wanted = rng.choice(list((asked_of_lives if about[0] is lives else asked_of_said).items()))
    before = "".join(sentence.format(**fact) for sentence, fact in told[: told.index(about)])
    inside = about[0][: about[0].index("{" + wanted + "}")].format(**about[1])
    context = "".join(sentence.format(**fact) for sentence, fact in told).rstrip()
    return text.format(**about[1]), context, about[1][wanted], len(before) + len(inside)
