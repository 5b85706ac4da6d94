"""Linear models over rows that go on after a kill, without a client, or beside one that cheats."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from clients import in_plain, over_server, with_ends
from row_parts import (
    BINNED,
    NAMES,
    OWNER,
    ROWS,
    SCHEMA,
    assert_as_glum,
    by_glum,
    fitting,
    rows,
    same,
    table,
    with_label,
)

from vfl.errors import ConfigError, DataError, PeerError, PeerLost, PeerStopped
from vfl.jobs.states import EncodedState, array_of
from vfl.learn.params import GlmParams
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.course import GuestCourse
from vfl.protocols.pooled.adding import Absences
from vfl.protocols.pooled.glm import PooledGlmState

# Going on after a kill.


def kept():
    """Courses that keep all states, by client."""
    states = {name: [] for name in NAMES}
    courses = {
        name: GuestCourse(checkpoints=Checkpoints(None, own.append)) for name, own in states.items()
    }
    return states, courses


def test_a_fit_goes_on_from_any_step_to_the_same_model():
    params = GlmParams()
    states, courses = kept()
    whole = same(in_plain(fitting("tweedie", params, courses=courses)))
    assert [state.done for state in states["ada"]] == list(range(1, whole.iterations + 1))
    for step in range(len(states["ada"])):
        # As they are read again from the store.
        again = {
            name: GuestCourse(
                checkpoints=Checkpoints(
                    msgspec.msgpack.decode(
                        b"".join(EncodedState(own[step]).pieces()),
                        type=PooledGlmState,
                        dec_hook=array_of,
                    )
                )
            )
            for name, own in states.items()
        }
        assert same(in_plain(fitting("tweedie", params, courses=again))) == whole


def test_clients_that_go_on_from_different_steps_are_named():
    params = GlmParams()
    states, courses = kept()
    in_plain(fitting("poisson", params, courses=courses))
    again = {
        name: GuestCourse(checkpoints=Checkpoints(own[1 if name == "bea" else 2]))
        for name, own in states.items()
    }
    with pytest.raises(PeerError, match=r"^bea broke the protocol: it sent a part of another total"):
        over_server(fitting("poisson", params, courses=again))
    with pytest.raises(ValueError, match="the state of a fit of other columns"):
        in_plain(fitting("poisson", GlmParams(fit_intercept=False), courses=again))


# Clients that are gone.

FRAMES = with_ends(fitting("poisson", GlmParams()), Absences(True))["frames"]["bea"]


@pytest.mark.parametrize("after", range(1, FRAMES, 5))
def test_the_others_end_at_the_optimum_of_their_own_rows(after):
    params = GlmParams()
    fits = fitting("poisson", params)
    ends = with_ends(fits, Absences(without=True), cut={"bea": after})
    model = ends["ada"]
    assert ends["cleo"] == model
    left = model.parties == ("ada", "cleo")
    # Whoever is gone once the last total is on its way has its rows in it.
    assert left or (model.parties == NAMES and after >= FRAMES - 4)
    mask = OWNER != 1 if left and after < FRAMES - 6 else None
    if mask is None and left:
        return  # the steps were over the rows of all, the standard errors over those of the others
    assert model.converged
    assert_as_glum(model, by_glum(model, "poisson", params, mask)[0])


def test_or_it_ends_for_all():
    fits = fitting("poisson", GlmParams())
    ends = with_ends(fits, Absences(), cut={"bea": FRAMES // 2})
    assert isinstance(ends["server"], PeerLost)
    assert str(ends["ada"]) == str(ends["cleo"]) == "server stopped the job: the connection to bea broke"


def test_an_error_of_one_clients_own_rows_ends_it_for_the_others():
    whole = with_label("poisson", np.where((OWNER == 2) & (np.arange(ROWS) > 700), -1.0, 1.0))
    ends = with_ends(fitting("poisson", GlmParams(), whole=whole), Absences())
    assert isinstance(ends["cleo"], DataError) and "in" in str(ends["cleo"])
    assert isinstance(ends["ada"], PeerStopped) and "-1" not in str(ends["ada"])


@pytest.mark.parametrize(
    "odd",
    [
        fitting("poisson", GlmParams(alpha=1.0)),
        fitting("gamma", GlmParams()),
        fitting("poisson", GlmParams(), rules=replace(BINNED, bins=5)),
        fitting("poisson", GlmParams(), schema=replace(SCHEMA, levels={"zone": ["north", "south"]})),
    ],
)
def test_clients_with_other_settings_are_told(odd):
    with pytest.raises(
        ConfigError, match=r"^the clients' columns, levels or settings of the model differ"
    ):
        over_server({**fitting("poisson", GlmParams()), "cleo": odd["cleo"]})


def test_offsets_that_are_too_far_apart():
    offset = np.where(OWNER == 1, 2000.0, 0.0)
    whole = table()[0], replace(rows("poisson"), offset=offset)
    with pytest.raises(DataError, match="too far apart to be summed"):
        in_plain(fitting("poisson", GlmParams(), whole=whole))


# Clients that cheat.


class Lying:
    """An adder of a client that adds other numbers to totals of some kind."""

    def __init__(self, adder, kind, change):
        self._adder, self._kind, self._change = adder, kind, change
        self.name, self.clients, self.entropy = adder.name, adder.clients, adder.entropy

    async def total(self, values, what):
        return await self._adder.total(
            self._change(values) if what.startswith(self._kind) else values, what
        )


@pytest.mark.parametrize(
    "kind", ["rows of levels", "sums of squares", "rows that train", "the constant", "step 2", "end"]
)
def test_totals_that_cannot_be_are_refused(kind):
    """Here a client takes away more than the others add."""
    honest = fitting("poisson", GlmParams())
    liar = {"bea": lambda adder: honest["bea"](Lying(adder, kind, lambda values: -9 * values))}
    with pytest.raises((PeerError, DataError)) as raised:
        in_plain(honest | liar)
    assert isinstance(raised.value, PeerError) or kind == "rows that train"


@pytest.mark.parametrize("kind", ["sums of numbers", "sums of squares", "the constant", "step", "sizes"])
def test_any_numbers_of_one_client_end_in_an_error_or_a_model(kind):
    honest = fitting("poisson", GlmParams(max_iterations=8))
    draw = np.random.default_rng(0)

    def random(values):
        return draw.integers(-(2**62), 2**62, values.shape)

    liar = {"bea": lambda adder: honest["bea"](Lying(adder, kind, random))}
    try:
        model = same(in_plain(honest | liar))
    except (PeerError, DataError, ConfigError):
        return
    assert np.isfinite([model.intercept, *model.part.coefficients]).all()
