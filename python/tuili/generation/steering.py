"""What has a say in each token of a row: logits processors before it is drawn, a grammar after."""

from __future__ import annotations

import math

from tuili import _core
from tuili.checks import invalid
from tuili.errors import NO_TOKEN_ALLOWED, GrammarError, NumericError, TuiliError
from tuili.generation import processors
from tuili.generation.delivery import Piece, Row
from tuili.generation.grammar import Constraint


def not_numbers() -> NumericError:
    return NumericError("the model's logits for this request are not numbers")


def none_drawn(row: Row, why: int) -> TuiliError:
    """The error of a row for which a step drew no token."""
    if why != _core.NOTHING_ALLOWED:
        return not_numbers()
    kind = NumericError if row.constraint is None else GrammarError
    named = "allowed_token_ids, bad_words, suppress_tokens, min_tokens, logits_processors, a grammar …"
    return kind(f"the request's parameters ({named}) leave no token", code=NO_TOKEN_ALLOWED)


def choose(row: Row, runner: _core.Runner) -> _core.StepResult:
    """Draw the next token of a row that has logits processors, or rank a beam's, which a step has computed to
    its end.

    raises  as `processors.apply`; InvalidParameterError where a beam's token gets the log-probability +inf
    """
    sequence = row.sequence
    generated = sequence.token_ids(sequence.n_prompt)
    logits = sequence.next_logits()
    result = runner.sample(
        sequence, processors.apply(row.processors, row.request.prompt_token_ids, generated, logits)
    )
    if row.beams is not None and any(score == math.inf for _, score, _ in sequence.candidates()[0][:1]):
        invalid(processors.NAME, "gave a token the log-probability +inf")
    return result


def follow_grammar(row: Row, constraint: Constraint, token_id: int, piece: Piece) -> Piece:
    """Advance in the row's grammar, whose end is the text's, and say what may come next.

    piece   what the stop rules made of the token
    raises  GrammarError if nothing may come next
    """
    transcript, finished = row.transcript, constraint.accept(token_id)
    if finished and transcript is not None and piece.finish_reason != "stop":
        rest = transcript.rest()
        return Piece(piece.text + rest.text, "stop", rest.stop_reason)
    if piece.finish_reason is None:
        constraint.look_ahead()
        row.sequence.allow(constraint.mask)
    return piece
