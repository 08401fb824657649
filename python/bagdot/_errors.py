"""The exceptions of bagdot."""

from __future__ import annotations


class IndexOutOfRange(IndexError):
    """An id that is no row of its table.

    It contributed nothing; all other ids of the call have been processed as usual, except in an
    update, which then changes nothing.
    """

    op: str
    """The op that was called."""
    table: int
    """The number of the table that was looked up."""
    bag: int
    """The bag, key-major: `feature * batch_size + sample`."""
    position: int
    """The position in `indices`."""
    value: int
    """The id that was found there."""
    num_embeddings: int
    """The number of rows of the table."""
    count: int
    """The number of bad ids of the call, of which this is the first."""

    def __init__(
        self,
        text: str,
        *,
        op: str = "",
        table: int = 0,
        bag: int = 0,
        position: int = 0,
        value: int = 0,
        num_embeddings: int = 0,
        count: int = 1,
    ) -> None:
        super().__init__(text)
        self.op = op
        self.table = table
        self.bag = bag
        self.position = position
        self.value = value
        self.num_embeddings = num_embeddings
        self.count = count

    def __reduce__(self) -> tuple:
        return _restored, (self.args[0], dict(self.__dict__))


def _restored(text: str, fields: dict) -> IndexOutOfRange:
    return IndexOutOfRange(text, **fields)
