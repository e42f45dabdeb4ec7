"""The function of usage that is not part of a job's or a batch's; those count it at their ends."""

from __future__ import annotations

from broker.db.calls.base import Answer, Call


class Folded(Answer):
    """How far the folding is.

    Attributes:
        day: the day that this step was at; None: no day is left.
        cursor: where its next step begins; ``0``: the day is done.
    """

    cursor: str
    day: str | None = None


class UsageFold(Call[Folded]):
    """Fold some rows of the first of these days that is not folded: to tenant and model, without the key.

    Attributes:
        days: ``yyyymmdd``. None of them may be written any more.
        cursor: of the answer before; ``0`` at first.
        most: about how many rows.
    """

    days: list[str]
    cursor: str
    most: int
