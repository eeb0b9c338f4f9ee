"""What has a say in each token of a row: logits processors before it is drawn, a grammar after."""

from __future__ import annotations

from tuili import _core
from tuili.generation import processors
from tuili.generation.delivery import Piece, Row


def choose(row: Row, runner: _core.Runner) -> _core.StepResult:
    """Draw the next token of a row that has logits processors, which a step has computed to its end.

    raises  as `processors.apply`
    """
    sequence = row.sequence
    generated = sequence.token_ids(sequence.n_prompt)
    logits = sequence.next_logits()
    return runner.sample(
        sequence, processors.apply(row.processors, row.request.prompt_token_ids, generated, logits)
    )


def follow_grammar(row: Row, token_id: int, piece: Piece) -> Piece:
    """Advance in the row's grammar, whose end is the text's, and say what may come next.

    piece   what the stop rules made of the token
    raises  GrammarError if nothing may come next
    """
    constraint, transcript = row.constraint, row.transcript
    if constraint is None or transcript is None:
        return piece
    finished = constraint.accept(token_id)
    if finished and piece.finish_reason != "stop":
        rest = transcript.rest()
        return Piece(piece.text + rest.text, "stop", rest.stop_reason)
    if piece.finish_reason is None:
        constraint.look_ahead()
        row.sequence.allow(constraint.mask)
    return piece
