"""A guest that does not keep to its job gets no more sums than its host has counted.

What it gets is counted where the host sends it: the nodes of which the host has summed every candidate.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from federation import JOB, Federation, make_tables
from room import Room

from vfl.errors import PeerLost, VflError
from vfl.jobs import training
from vfl.jobs.alignments import count_known_rows, load_alignment
from vfl.jobs.offer import Offer
from vfl.models.trees import _TreesGuest
from vfl.party.row_sums import RowSumsFile
from vfl.party.store import Store
from vfl.protocols.trees import grower, paillier


class Attack:
    """A guest and a host in one process, under a rule of the host's."""

    def __init__(self, folder: Path, keys: Path, patch: pytest.MonkeyPatch) -> None:
        made = Federation(folder, keys, hosts=("registry",), guest_listens=True, tables=make_tables(300))
        self.room, self._patch = Room(made), patch
        self.policy = made.parties["registry"].settings["policy"]
        self.store = made.parties["registry"].store
        self.room.patch(patch)
        self.room.align()
        (name,) = Store(self.store).names("alignment")
        self.rows = count_known_rows(load_alignment(Store(self.store), name).rows)
        self.nodes = 0  # that were asked about
        self.told = 0  # of which the guest got sums
        summed = paillier._PaillierHostColumns._open

        async def opened(columns: Any, message: Any, node: int) -> Any:
            self.nodes += 1
            self.told += not message.withheld
            return await summed(columns, message, node)

        patch.setattr(paillier._PaillierHostColumns, "_open", opened)

    def train(
        self,
        name: str,
        *,
        model: str | None = None,
        done: int | None = None,
        fresh: bool = True,
        **settings: Any,
    ) -> str | None:
        """A job; the offer says that it is of another model, or goes on, where that is given. What it
        ended with, None for a model."""
        job = {**JOB, "job": {**JOB["job"], "name": name, "holdout": 0.0}}
        job["secureboost"] = {"trees": 2, "depth": 1, "min_child_rows": 10, **settings}

        def offer(*parts: Any, **fields: Any) -> Offer:
            fields["model"] = model or fields["model"]
            fields["done"] = fields["done"] if done is None else done
            return Offer(*parts, **fields)

        self._patch.setattr(training, "Offer", offer)
        try:
            self.room.train(job, fresh=fresh)
        except VflError as error:
            return str(error)
        return None

    @property
    def got(self) -> float:
        """Sums a row that the guest has had."""
        return 2 * self.nodes / self.rows

    @property
    def counted(self) -> float:
        jobs = RowSumsFile(Store(self.store), "insurer").read().jobs
        return sum(job.told for job in jobs.values())


@pytest.fixture
def attack(tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Attack]:
    yield Attack(tmp_path, keys, monkeypatch)


def test_an_offer_to_go_on_with_another_model_lowers_no_count(attack: Attack) -> None:
    attack.policy["max_sums_a_row"] = 2 * 2 / attack.rows  # a job's two trees
    assert attack.train("first") is None
    (model,) = Store(attack.store).names("model")
    before = attack.counted
    for settings in ({"trees": 1}, {"sums": "hidden", "coordinator": "notary"}):
        assert attack.train("tiny", model=model, done=1, **settings) is not None
        assert attack.counted == before
    assert "max_sums_a_row" in str(attack.train("second"))
    assert "exists already" in str(attack.train("second", model=model))
    assert attack.got == pytest.approx(attack.counted) == pytest.approx(attack.policy["max_sums_a_row"])


def test_jobs_of_one_name_that_never_finish_are_counted_each(
    attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack.policy["max_sums_a_row"] = most = 5 * 2 / attack.rows

    async def hang_up(guest: Any, trees: int) -> None:
        raise PeerLost("the guest hangs up")

    monkeypatch.setattr(paillier._PaillierGrower, "finish", hang_up)
    attack.room.federation.guest.settings["party"]["reconnect"] = 0
    ends = [attack.train(f"job{seed}", model="same", seed=seed) for seed in range(4)]
    assert [end is not None and "max_sums_a_row" in end for end in ends] == [False, False, True, True]
    assert attack.got == pytest.approx(attack.counted) == pytest.approx(4 * 2 / attack.rows)
    assert attack.train("last", trees=1) is not None
    assert attack.got == pytest.approx(attack.counted) == pytest.approx(most)


def test_a_job_that_goes_on_counts_what_it_is_told_again(
    attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fills the rule, and goes on where it was when the host raises that."""
    attack.policy["max_sums_a_row"] = 2 * 2 / attack.rows
    attack.room.federation.guest.settings["party"]["reconnect"] = 0
    with monkeypatch.context() as patch:
        split = paillier._PaillierGrower.split

        async def lost_in_the_second(guest: Any, growth: Any, parties: Any) -> Any:
            if attack.nodes == 2:
                raise PeerLost("the connection broke")
            return await split(guest, growth, parties)

        patch.setattr(paillier._PaillierGrower, "split", lost_in_the_second)
        assert attack.train("cut") is not None
    assert attack.got == pytest.approx(attack.counted) == pytest.approx(2 * 2 / attack.rows)
    assert "the host raises the rule, and the job goes on" in str(attack.train("cut", fresh=False))
    attack.policy["max_sums_a_row"] = 3 * 2 / attack.rows
    assert attack.train("cut", fresh=False) is None
    assert attack.got == pytest.approx(attack.counted) == pytest.approx(3 * 2 / attack.rows)


@pytest.mark.parametrize(
    "draw",
    [{"subsample": 0.05}, {"goss_top": 0.02, "goss_other": 0.02, "learning_rate": 1.0}],
)
def test_a_tree_of_more_rows_than_the_job_draws_is_refused(
    attack: Attack, monkeypatch: pytest.MonkeyPatch, draw: dict[str, float]
) -> None:
    drawn = grower.draw_rows

    def every(train: Any, params: Any, *rest: Any) -> Any:
        change = {"subsample": 1.0, "goss_top": 0.0, "goss_other": 0.0}
        return drawn(train, params.model_copy(update=change), *rest)

    monkeypatch.setattr(grower, "draw_rows", every)
    monkeypatch.setattr(_TreesGuest, "check_rows", lambda role: None)
    first = 1 if "goss_top" in draw else 0  # GOSS draws from all rows in the first tree
    end = attack.train("few", trees=3, depth=3, **draw)
    assert "a TreeStart of more rows than the job draws" in str(end)
    assert attack.nodes <= 4 * first
    assert attack.got <= (attack.counted if first else 0.0)


def test_aligning_anew_gives_no_more(attack: Attack) -> None:
    attack.policy["max_sums_a_row"] = 2 * 2 / attack.rows
    assert attack.train("first") is None
    attack.room.align()
    assert len(Store(attack.store).names("alignment")) == 2
    assert "rows that no earlier job was about" in str(attack.train("second"))
    assert attack.got == pytest.approx(attack.counted) == pytest.approx(attack.policy["max_sums_a_row"])


def test_nodes_of_few_rows_keep_their_sums_and_the_guest_hears_of_it(attack: Attack) -> None:
    """Its own columns may split them."""
    attack.policy |= {"max_sums_a_row": "unlimited", "min_summed_rows": 100}
    assert attack.train("small", trees=1, depth=3, min_child_rows=20) is None
    # The root, and of its children if both have so many rows; of none below.
    assert 1 <= attack.told <= 2
    said = attack.room.said["insurer"]
    assert said.has(
        "hosts kept sums of nodes to themselves, by max_sums_a_row and min_summed_rows of [policy]"
    )


def test_nodes_of_which_too_much_would_be_told_keep_their_sums(attack: Attack) -> None:
    attack.policy |= {"max_sums_a_row": 0.06, "min_summed_rows": 1}
    assert attack.train("rule", trees=2, depth=3, min_child_rows=10) is None
    given = RowSumsFile(Store(attack.store), "insurer").read()
    assert given.told.max() <= 0.06 * (1 + 1e-9)
    assert 2 * attack.told / attack.rows > 0.03 and attack.told < attack.nodes
