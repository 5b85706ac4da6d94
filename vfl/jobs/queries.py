"""The query of a model's training, applied again where the model is used."""

from vfl.errors import ConfigError
from vfl.jobs.show import Show
from vfl.models.halves import AnyGuestHalf, AnyHostHalf
from vfl.party.kept_query import over
from vfl.party.sections import DataSection

_WHERE = {"files": "files", "database": "a database"}


def with_query_of(data: DataSection, half: AnyGuestHalf | AnyHostHalf, show: Show) -> DataSection:
    """[data] with the query that made the table of the training; says so where its own is another.

    Raises ConfigError as `as_in_training`.
    """
    applied, note = as_in_training(data, half)
    if note is not None:
        show.say(f"note: model {half.name} was trained {note}")
    return applied


def as_in_training(
    data: DataSection, half: AnyGuestHalf | AnyHostHalf
) -> tuple[DataSection, str | None]:
    """[data] with the query that made the table of the training, and what there is to say of it.

    Raises ConfigError where the rows come from a place now for which that query was not written.
    """
    kept = half.query
    if kept is None:
        if data.query is None:
            return data, None
        said = "that of [data] is applied, which must give the columns as they were"
        return data, f"without a query: {said}"
    if kept.over != over(data):
        raise ConfigError(
            f"model {half.name} was trained by a query over {_WHERE[kept.over]}, and [data] names "
            f"{_WHERE[over(data)]}: name {_WHERE[kept.over]} again, or train anew"
        )
    if kept.text == data.query:
        return data, None
    what = "has none" if data.query is None else "has another one"
    note = f"by a query, and [data] {what}: that of the training is applied"
    return data.model_copy(update={"query": kept.text}), note
