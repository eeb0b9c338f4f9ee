"""A search of oracle/beams.py in tuili's terms, and whether an answer is the reference's."""

from __future__ import annotations

from tiny_engine import sampling

SCORE_TOLERANCE = 1e-4
EPS_F32 = 2.0**-24  # the reference adds up in float32


def dislike_even(token_ids, logprobs):
    logprobs[::2] -= 2.0


def asked(golden):
    """SamplingParams of the golden's search, all of its beams wanted."""
    options = dict(golden.get("options", {}))
    if "options" in golden:
        options["logprobs"] = 0
    if "logits_processors" in options:
        options["logits_processors"] = [dislike_even]
    if "logit_bias" in options:
        options["logit_bias"] = {int(token_id): bias for token_id, bias in options["logit_bias"].items()}
    return sampling(
        max_tokens=golden["max_new_tokens"],
        num_beams=golden["num_beams"],
        n=golden["num_beams"],
        length_penalty=golden["length_penalty"],
        early_stopping=golden["early_stopping"],
        stop_token_ids=golden["eos_token_id"],
        **options,
    )


def check(golden, handle):
    outputs, options = handle.result(timeout=0).outputs, golden.get("options", {})
    assert [out.token_ids for out in outputs] == golden["sequences"], options
    for out, score in zip(outputs, golden["scores"], strict=True):
        assert abs(out.score - score) < SCORE_TOLERANCE + len(out.token_ids) * EPS_F32 * abs(score), options
        if "options" not in golden:
            n = len(out.token_ids)  # additions, a power and a division, each rounded to float32
            exact = out.cumulative_logprob / n ** golden["length_penalty"]
            assert abs(out.score - exact) <= (n + 2) * EPS_F32 * abs(exact)
        stopped = out.token_ids[-1] in golden["eos_token_id"] or isinstance(out.stop_reason, str)
        assert out.finish_reason == ("stop" if stopped else "length")
    if "options" in golden:
        own = [entry.logprob for entry in outputs[0].logprobs]
        worst = max(abs(a - b) for a, b in zip(own, golden["logprobs"], strict=True))
        assert worst < SCORE_TOLERANCE and outputs[0].cumulative_logprob == sum(own)
