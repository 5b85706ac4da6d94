"""SecureBoost: trees of all parties' columns, under the encryption of the job.

The sums of gradients come from paillier.py, under Paillier's encryption, or from lattice.py. Without
hosts nothing is encrypted, and the trees are, bit for bit, those that the same columns give with hosts.
"""

from collections.abc import Callable, Mapping, Sequence

from vfl.arrays import Floats
from vfl.crypto.paillier import PrivateKey
from vfl.learn.binning import Binned
from vfl.learn.params import BoostParams
from vfl.net.peer import Peer
from vfl.protocols.common.course import GuestCourse, HostCourse
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.grower import GuestTrees, HostTrees, Pooled, TreeDone
from vfl.protocols.trees.lattice import lattice_guest_train, lattice_host_train
from vfl.protocols.trees.model import GuestModel, HostModel
from vfl.protocols.trees.paillier import paillier_guest_train, paillier_host_train


async def guest_train(
    hosts: Sequence[Peer],
    blocks: Mapping[str, Binned],
    rows: Training,
    params: BoostParams,
    *,
    key: PrivateKey | None = None,
    resources: Resources = Resources(),
    course: GuestCourse[TreeDone, GuestTrees] = GuestCourse(),
    coordinator: Peer | None = None,
) -> tuple[GuestModel, Floats]:
    """The guest's half of the model and the score of every aligned row, shape (rows,).

    `blocks` are the binned columns that the guest holds itself, by party name, its own first; with the
    blocks of all parties and no hosts this is the plaintext oracle. `key`: made for the job where it is
    not given. Raises PeerError when a host breaks the protocol, ConfigError for settings that cannot be.
    """
    if key is not None and params.encryption != "paillier":
        raise ValueError(f"a key where encryption = {params.encryption!r}")
    if not hosts:
        return await Pooled(blocks, rows, params).train(course.progress, course.checkpoints)
    if params.encryption == "lattice":
        return await lattice_guest_train(hosts, blocks, rows, params, resources, course, coordinator)
    return await paillier_guest_train(hosts, blocks, rows, params, key, resources, course, coordinator)


async def host_train(
    guest: Peer,
    binned: Binned,
    params: BoostParams,
    participant: Participant,
    *,
    shown: Callable[[str], str],
    course: HostCourse[HostModel, HostTrees] = HostCourse(),
    coordinator: Peer | None = None,
) -> HostModel:
    """A host's half of the model. `shown` gives the name under which the guest may see a column.

    Raises PeerError when the guest breaks the protocol, Refused for what the host does not allow.
    """
    if params.encryption == "lattice":
        return await lattice_host_train(guest, binned, params, participant, shown, course, coordinator)
    return await paillier_host_train(guest, binned, params, participant, shown, course, coordinator)
