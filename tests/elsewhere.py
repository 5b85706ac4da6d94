"""python elsewhere.py FOLDER KEYS: a linear model of parties in this process, all of which keep tapes.

Its environment decides what kind of machine it is of (vfl/jobs/arithmetic.py).
"""

import sys
from pathlib import Path

import pytest
from audited import AuditedRoom
from federation import GLM_JOB, Federation
from room import HOSTS

if __name__ == "__main__":
    room = AuditedRoom(Federation(Path(sys.argv[1]), Path(sys.argv[2]), guest_listens=True))
    for name in HOSTS:
        room.federation.parties[name].settings["policy"]["encryptions"] = ["lattice"]
    room.patch(pytest.MonkeyPatch())
    room.align()
    room.train({**GLM_JOB, "glm": {**GLM_JOB["glm"], "encryption": "lattice"}})
