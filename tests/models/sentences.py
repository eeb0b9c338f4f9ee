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
    """(text, "positive" or "negative"); a negation turns it round."""
    positive, negated = rng.random() < 0.5, rng.random() < 0.4
    if rng.random() < 0.5:
        word = rng.choice(GOOD if positive else BAD)
        adverb = rng.choice(["", "really ", "quite ", "very "])
        thing = rng.choice(THINGS)
        text = rng.choice([
            f"the {thing} was {'not ' * negated}{adverb}{word}.",
            f"i {'never ' * negated}found the {thing} {adverb}{word}!",
        ])  # fmt: skip
    else:
        word = rng.choice(GOOD_ZH if positive else BAD_ZH)
        thing = rng.choice(THINGS_ZH)
        text = rng.choice([
            f"这部{thing}{'并不' if negated else rng.choice(['真的', '很', '非常'])}{word}。",
            f"我觉得那个{thing}{'一点也不' if negated else '非常'}{word}！",
        ])  # fmt: skip
    return text, "positive" if positive != negated else "negative"


def entities(rng: random.Random) -> tuple[str, list[tuple[str, str]]]:
    """(text, the entities in their order as (label, words))."""
    if rng.random() < 0.5:
        one, two = (f"{rng.choice(FIRST)} {rng.choice(LAST)}" for _ in range(2))
        city, firm = rng.choice(CITIES), rng.choice(FIRMS)
        parts: list[Any] = rng.choice([
            [("PER", one), " works at ", ("ORG", firm), " in ", ("LOC", city), "."],
            [("PER", one), " met ", ("PER", two), " in ", ("LOC", city), " yesterday."],
            ["yesterday ", ("ORG", firm), " said that ", ("PER", one), " lives in ", ("LOC", city), "!"],
            ["the film was very good."],
        ])  # fmt: skip
    else:
        one, two = rng.sample(PEOPLE_ZH, 2)
        city, firm = rng.choice(CITIES_ZH), rng.choice(FIRMS_ZH)
        parts = rng.choice([
            [("PER", one), "在", ("LOC", city), "的", ("ORG", firm), "工作。"],
            ["昨天", ("PER", one), "在", ("LOC", city), "见到了", ("PER", two), "。"],
            [("ORG", firm), "说", ("PER", one), "住在", ("LOC", city), "！"],
            ["这部电影很精彩。"],
        ])  # fmt: skip
    text = "".join(part if isinstance(part, str) else part[1] for part in parts)
    return text, [part for part in parts if not isinstance(part, str)]


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
