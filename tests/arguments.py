"""What a role of a protocol is given, made of loose options, which it takes out of `options`."""

from collections.abc import Sequence
from typing import Any

from vfl.protocols.align.psi import PsiSettings
from vfl.protocols.common.course import GuestCourse, HostCourse
from vfl.protocols.common.participant import Participant, Resources


def _taken(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: options.pop(name) for name in names if name in options}


def resources(options: dict[str, Any]) -> Resources:
    return Resources(**_taken(options, "machine", "operations"))


def participant(name: str, hosts: Sequence[str], options: dict[str, Any]) -> Participant:
    own = _taken(options, "context", "sign", "verify", "minimum")
    return Participant(name, hosts, **own, resources=resources(options))


def guest_course(options: dict[str, Any]) -> GuestCourse[Any, Any]:
    return GuestCourse(**_taken(options, "progress", "checkpoints", "hints", "hint_progress"))


def host_course(options: dict[str, Any]) -> HostCourse[Any, Any]:
    followed = "progress", "hint_progress", "inference_progress"
    return HostCourse(**_taken(options, "keep", "checkpoints", "hints", *followed))


def psi_settings(options: dict[str, Any]) -> PsiSettings:
    return PsiSettings(**_taken(options, "engine", "scratch", "progress", "max_ids", "randomness"))
