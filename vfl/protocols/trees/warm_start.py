"""Warm start: trees that are added to those of a kept model.

Before the first tree:
 1. The guest says which training made the model, by the digest of what all parties signed then. A host
    whose half is of another training ends the job.
 2. Guest and hosts score the aligned rows with the model, as they score a batch (scoring.py). What comes
    of it are the scores to begin from, added up in the order in which the model's training did.
All else is as in a training that goes on from a checkpoint: this one has done no tree yet, and every
party's half has what the model has. So the trees are, bit for bit, those of one longer training that has
the same bins and draws: rows are drawn as there, columns as for a first tree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import msgspec

from vfl.arrays import Floats
from vfl.errors import Refused
from vfl.learn.binning import Features
from vfl.learn.tree import Tree
from vfl.net.peer import MemoryPeer, Peer, together
from vfl.net.wire import Message
from vfl.protocols.common.batches import all_scores
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.grower import GuestTrees, HostTrees
from vfl.protocols.trees.model import GuestModel, HostModel
from vfl.protocols.trees.scoring import guest_score_from, host_score


class InitialModel(Message, frozen=True):
    """guest -> host. Reveals: which training made the model that this one begins with."""

    training: Annotated[bytes, msgspec.Meta(max_length=32)]  # digest of what its parties signed


@dataclass(frozen=True, eq=False)
class Initial:
    """The model that a training begins with, as far as a party has it."""

    guest: GuestModel | None = None
    hosts: Mapping[str, HostModel] = field(default_factory=dict)  # by name
    training: bytes = b""
    """Digest of what the parties of the training that made it signed; nothing where nobody signs."""

    @property
    def trees(self) -> int:
        """How many it has."""
        return 0 if self.guest is None else len(self.guest.trees)


def start_from(initial: Initial, rows: Training) -> Training:
    """The rows of a training whose scores start as the model's."""
    if initial.guest is None:
        raise ValueError("a guest without the guest's half")
    return replace(rows, constant=initial.guest.start)


async def guest_begin(
    hosts: Sequence[Peer], initial: Initial, features: Features, rows: Training
) -> GuestTrees:
    """What the guest begins with: the model's trees, and every row's score by it.

    `rows` start with the model's constant. Raises DataError for a column that is not as it was in the
    model's training, and what sessions raise.
    """
    await together([host.send(InitialModel(initial.training)) for host in hosts])
    model = _model_of(initial, [host.name for host in hosts])
    _, before = rows.start()
    score: Floats = await all_scores(guest_score_from(hosts, model, features, before))
    return GuestTrees(0, [*model.trees], [*model.splits], score, None)


async def host_begin(
    guest: Peer, half: HostModel, training: bytes, features: Features, rows: int
) -> HostTrees:
    """What a host begins with. Raises Refused for a half of another training."""
    if (await guest.recv(InitialModel)).training != training:
        raise Refused(
            "the halves of init_model are not of one training: name a model that all parties have made "
            "together"
        )
    await host_score(guest, half, features, rows)
    return HostTrees(0, [*half.splits], {}, [])


async def pooled_begin(initial: Initial, features: Mapping[str, Features], rows: Training) -> GuestTrees:
    """What a training begins with that has all columns in one place, by party, the guest's first."""
    guest, *hosts = features
    pairs = [MemoryPeer.pair(guest, host) for host in hosts]
    begun, *_ = await together(
        [
            guest_begin([to_host for to_host, _ in pairs], initial, features[guest], rows),
            *(
                host_begin(to_guest, initial.hosts[host], initial.training, features[host], count)
                for host, (_, to_guest), count in zip(
                    hosts, pairs, [len(rows.label)] * len(hosts), strict=True
                )
            ),
        ]
    )
    assert isinstance(begun, GuestTrees)  # noqa: S101 - for the type checker
    splits, first = [*begun.splits], [0]
    for host in hosts:
        first.append(len(splits))
        splits += initial.hosts[host].splits
    return replace(begun, trees=[_with_records(tree, first) for tree in begun.trees], splits=splits)


def _model_of(initial: Initial, hosts: Sequence[str]) -> GuestModel:
    """The guest's half, its parties in the order of this training."""
    model = initial.guest
    if model is None or {*model.parties[1:]} != {*hosts}:
        raise ValueError("a model of other parties than those of the training")
    order = [0, *(1 + hosts.index(name) for name in model.parties[1:])]
    trees = []
    for tree in model.trees:
        branches = {n: replace(b, party=order[b.party]) for n, b in tree.branches.items()}
        trees.append(replace(tree, branches=branches))
    return replace(model, parties=(model.parties[0], *hosts), trees=tuple(trees))


def _with_records(tree: Tree, first: Sequence[int]) -> Tree:
    """A tree whose records are those of all parties in one list, by where each party's begin."""
    branches = {n: replace(b, record=first[b.party] + b.record) for n, b in tree.branches.items()}
    return replace(tree, branches=branches)
