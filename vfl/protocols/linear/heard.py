"""What an honest guest sends to all hosts of a linear model alike: all but what follows is theirs alone.

Hosts' masks cancel only where they have heard the same (common/transcript.py).
"""

from vfl.protocols.common.lattice_hints import HintKnown, ZerosRead
from vfl.protocols.common.lattice_sums import HintProducts
from vfl.protocols.common.transcript import Apart
from vfl.protocols.common.transfers import ExtensionColumns, TransferKeys
from vfl.protocols.linear.across import AcrossLevels
from vfl.protocols.linear.lattice_products import OpenedCellSums, OpenedSums
from vfl.protocols.linear.products import LevelResiduals, OpenedByLevel, OpenedProducts

APART: Apart = {
    HintKnown: None,
    ZerosRead: None,
    HintProducts: None,
    OpenedProducts: "plaintexts",
    OpenedSums: "sums",
    AcrossLevels: None,
    TransferKeys: None,
    ExtensionColumns: None,
    LevelResiduals: None,
    OpenedByLevel: None,
    OpenedCellSums: None,
}
"""By kind, the field that is each host's own; None: all of it."""
