"""A host's sealed directories: made of a model's half and the table as it is now, kept, withdrawn."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypedDict

import msgspec

from vfl.blocks.disk import NO_ROOM
from vfl.crypto import voprf
from vfl.crypto.randomness import OF_SYSTEM, Entropy, Randomness
from vfl.errors import DataError, ModelError, Refused
from vfl.jobs.audits import check_audited
from vfl.jobs.connect import Site
from vfl.jobs.memory import release_memory
from vfl.jobs.own_table import read_host
from vfl.jobs.queries import with_query_of
from vfl.jobs.show import Show, drift_of_columns, say_unknown_levels, say_unseen
from vfl.learn.levels import match_levels
from vfl.models.across import not_by_parts
from vfl.models.halves import AnyHostHalf, HostHalf
from vfl.models.kinds import kind_of_model, load_half
from vfl.party.config import Party
from vfl.party.directories import (
    Directory,
    KeptKey,
    OwnDirectory,
    Withdrawn,
    keep_directory,
    kept_directories,
    load_directory,
    load_withdrawn,
    new_entries,
    withdraw_directory,
)
from vfl.party.keys import TableIds
from vfl.party.policy import check_columns, last_day
from vfl.party.policy_section import PolicySection
from vfl.party.store import Store
from vfl.party.table import Table
from vfl.protocols.lookup.directory import (
    CLOCKS_APART,
    SEED,
    TAG,
    Header,
    bits_for,
    decode_header,
    encode_header,
    statement,
)
from vfl.protocols.lookup.sealing import OpenTable, Sealing, seal
from vfl.text import counted

NOT_AS_IN_TRAINING = "one of its columns is not as it was in training (its log has the details)"
_WIDE = 60  # bytes of an entry
_SMALL = 1_000_000  # bytes that nobody need hear of
_FULLER = 2  # doublings of the table after which there is another key, and so other parts


@dataclass(frozen=True)
class Published:
    """What making a directory came to."""

    own: OwnDirectory
    written: int  # parts that are not as before
    renewed: bool  # whether it has a key that no directory had before
    unchanged: bool  # whether the table is as it was


def publish(
    site: Site, model: str, show: Show, *, renew: bool = False, randomness: Randomness = OF_SYSTEM
) -> Published:
    """Make the directory of a model, in place of the one before. `renew`: under a new key.

    The key, and the salts of parts, are kept with the directory: a replay of a run that looks up in it
    takes them from there. `randomness`: of the run in which it is made, where it is made in one.

    Raises ModelError for a model that is not there, ConfigError and DataError for a table that cannot be
    used, Refused where another process makes it or the policy leaves columns of the model out.
    """
    store = site.store
    half = load_half(store, model, HostHalf)
    guest = guest_of(site, half)
    check_columns(site.party.policy, half.name, half.columns)
    check_audited(site, half.name, show)
    with store.locked("directory", half.name, f"another run of vfl that seals {half.name}"):
        kept = load_directory(store, half.name)
        return _Publisher(site, half, guest, show, randomness).publish(kept, renew)


def made_again(site: Site, kept: OwnDirectory, show: Show) -> Header:
    """The header of a directory as it follows from the half, the table and the policy as they are now,
    with the key and the salts of the kept one. Nothing is kept. Raises as `publish`."""
    half = load_half(site.store, kept.directory.header.model, HostHalf)
    return _Publisher(site, half, guest_of(site, half), show, OF_SYSTEM).again(kept)


def guest_of(site: Site, half: AnyHostHalf) -> str:
    """The guest that a half was trained with. Raises ModelError where it is no peer any more."""
    for name in site.party.partners:
        if site.same_party(name, half.guest):
            return name
    raise ModelError(
        f"model {half.name} was trained with a guest that is not in [peers] any more, or has another "
        "certificate there"
    )


def withdraw(site: Site, model: str) -> datetime:
    """Withdraw the directory of a model: no lookup is answered from now on. Raises DataError."""
    now = datetime.now(UTC)
    withdraw_directory(site.store, load_half(site.store, model, HostHalf).name, now)
    return now


def valid_directory(site: Site, model: str, now: datetime) -> OwnDirectory | None:
    """The directory of a model, if there is one that is of use today by the party's policy.

    Raises Refused for one that was withdrawn, ModelError when it is damaged.
    """
    kept = load_directory(site.store, model)
    if isinstance(kept, Withdrawn):
        raise _withdrawn(site, kept)
    policy = site.party.policy
    if kept is None or is_over(policy, kept.directory.header.made, now):
        return None
    # One from before the policy was narrowed says what each column adds.
    return None if kept.directory.header.shown and not shows_columns(policy) else kept


def check_not_withdrawn(site: Site, model: str) -> None:
    """Raises Refused where the directory of a model was withdrawn: so much is read in no time."""
    kept = load_withdrawn(site.store, model)
    if kept is not None:
        raise _withdrawn(site, kept)


def _withdrawn(site: Site, kept: Withdrawn) -> Refused:
    return Refused(
        f"the directory of model {kept.model} was withdrawn by {site.party.name} on "
        f"{kept.withdrawn:%Y-%m-%d}"
    )


def shows_columns(policy: PolicySection) -> bool:
    """Whether guests may see what each column adds to the score of a linear model."""
    return policy.show_names and policy.explain


def is_over(policy: PolicySection, made: datetime, now: datetime) -> bool:
    """Whether a directory, or a key, of that time is of no use any more."""
    last = last_day(made.date(), days_of_use(policy))
    return last is not None and now.date() > last


def days_of_use(policy: PolicySection) -> int | None:
    """Days for which a directory is of use; None: for ever."""
    return None if isinstance(policy.directory_days, str) else policy.directory_days


class _Nowhere:
    """Where entries go that are not kept."""

    def write(self, data: bytes, /) -> int:
        return len(data)


class _Publisher:
    def __init__(
        self, site: Site, half: AnyHostHalf, guest: str, show: Show, randomness: Randomness
    ) -> None:
        self._site, self._half, self._guest, self._show = site, half, guest, show
        self._randomness = randomness
        self._kind = kind_of_model(half.model)

    def publish(self, kept: OwnDirectory | Withdrawn | None, renew: bool) -> Published:
        site, half = self._site, self._half
        if why := not_by_parts(half.model):
            raise DataError(f"model {half.name} {why}", for_peer=f"the model {why}")
        table, strange = self._open()
        now = datetime.now(UTC).replace(microsecond=0)
        if (last := _last(kept)) is not None:
            if last > now + CLOCKS_APART:  # a clock was wrong then, and no guest has taken it
                kept = None
            else:  # a clock that is set back makes no directory that is older
                now = max(now, last + timedelta(seconds=1))
        before = kept if isinstance(kept, OwnDirectory) else None
        old = None if renew or before is None else self._reusable(before, table, now)
        draw = self._randomness.at
        key = _new_key(now, draw("key of the directory")) if old is None else old.keys[-1]
        bits = self._bits_for(table) if old is None else old.directory.header.bits
        version = f"{now:%Y%m%d-%H%M%S}-{draw('version')(3).hex()}"
        stub = self._header(table, key, bits, version, now, strange)
        sealing = Sealing(
            bytes.fromhex(key.secret),
            stub.context,
            bits,
            None if old is None else old.directory.catalogue,
        )

        def follow(done: int, of: int) -> None:
            self._show.progress("sealing rows", done, of)

        self._say_size(table)
        with new_entries(site.store, half.name, version) as (file, path):
            scratch = site.store.scratch()
            sealed = seal(table, sealing, file, scratch, draw("salt of new parts"), follow)
        release_memory(table.rows)
        header = encode_header(
            msgspec.structs.replace(stub, table=sealed.table, catalogue=sealed.catalogue.digest)
        )
        directory = Directory(
            decode_header(header), header, site.identity.sign(statement(header)), sealed.catalogue, path
        )
        keys = self._keys(before, _used(key, now), old is None, now)
        keep_directory(site.store, half.name, directory, self._guest, keys)
        unchanged = old is not None and old.directory.header.table == sealed.table
        return Published(OwnDirectory(directory, keys), sealed.written, old is None, unchanged)

    def again(self, kept: OwnDirectory) -> Header:
        """See `made_again`."""
        table, strange = self._open()
        header, catalogue = kept.directory.header, kept.directory.catalogue
        keys = [key for key in kept.keys if key.public == header.key.hex()]
        if not keys:
            raise ModelError(f"directory {header.model} is damaged: it has not the key of its header")
        stub = self._header(table, keys[0], header.bits, header.version, header.made, strange)
        sealing = Sealing(bytes.fromhex(keys[0].secret), stub.context, header.bits, catalogue)

        def follow(done: int, of: int) -> None:
            self._show.progress("sealing rows again", done, of)

        drawn = self._randomness.at("salt of new parts")
        sealed = seal(table, sealing, _Nowhere(), self._site.store.scratch(make=False), drawn, follow)
        release_memory(table.rows)
        return msgspec.structs.replace(stub, table=sealed.table, catalogue=sealed.catalogue.digest)

    def _say_size(self, table: OpenTable) -> None:
        """Say how large it becomes, before it is made. Raises DataError where the disk has no room."""
        width, entries, store = TAG + table.size, table.entries, self._site.store
        whole, meanwhile = entries * width, entries * (SEED + width)
        text = f"sealing {counted(entries, 'entry', 'entries')} of {counted(width, 'byte')}"
        if whole >= _SMALL:
            text += f": {whole / 1e6:,.1f} MB, and {meanwhile / 1e6:,.1f} MB more of the disk meanwhile"
        self._show.say(text)
        if width > _WIDE and (splits := len(set(self._layout.same))):
            self._show.say(
                f"note: {self._half.name} has {counted(splits, 'distinct split')} of this party's "
                f"columns, a bit of each row: above {8 * (_WIDE - TAG)} a row takes more than "
                f"{_WIDE} bytes; fewer trees, less depth or fewer bins (max_bins) make it less"
            )
        store.make("directory")
        free = shutil.disk_usage(store.folder("directory")).free
        if free < whole + meanwhile:
            raise DataError(
                f"{store.folder('directory')} has room for {free / 1e6:,.0f} MB, and the directory "
                f"takes {(whole + meanwhile) / 1e6:,.0f} MB while it is made: free some",
                for_peer=NO_ROOM,
            )

    def _open(self) -> tuple[OpenTable, int]:
        """The table as it is now, and how many of its rows have unknown levels beyond chance."""
        site, half, show, kind = self._site, self._half, self._show, self._kind
        try:
            data = with_query_of(site.party.data, half, show)
            table, ids = read_host(site, half.columns, kind.needed(half.model), data)
            for column in table.faults:
                show.say(
                    f"note: {table.path.name}: column '{column}' cannot be used; "
                    f"{half.name} needs it not"
                )
            return self._packed(table, ids)
        except DataError as error:
            raise DataError(f"{error} (for model {half.name})", for_peer=NOT_AS_IN_TRAINING) from None

    def _packed(self, table: Table, ids: TableIds) -> tuple[OpenTable, int]:
        half, show, kind = self._half, self._show, self._kind
        for note in ids.notes:
            show.say(f"note: {table.path.name}: {note}")
        features, unknown = match_levels(table.features, half.levels)
        strange = say_unknown_levels(show, unknown, half.levels)
        drift_of_columns(show, half.profiles, table.path.name, features)
        own = kind.own_scores(half.model, table.path.name, features, table.rows)
        say_unseen(show, own.unseen, half.levels)
        shows = shows_columns(self._site.party.policy)
        packer = kind.packer(half.model, features, own, shows)
        self._layout, self._rows = packer.layout, len(ids.rows)
        return OpenTable(ids.keys, table.rows, packer.pack, packer.layout.size), strange

    def _header(
        self, table: OpenTable, key: KeptKey, bits: int, version: str, now: datetime, strange: int
    ) -> Header:
        data, layout = self._site.party.data, self._layout
        return Header(
            model=self._half.name,
            host=self._site.party.name,
            guest=self._guest,
            version=version,
            made=now,
            key=bytes.fromhex(key.public),
            entries=table.entries,
            rows=self._rows,
            rules=[list(one.normalise) for one in data.keys],
            columns=[len(one.id) for one in data.keys],
            bits=bits,
            handle=table.handle,
            missing=layout.missing,
            same=list(layout.same),
            shown=list(layout.columns),
            unknown_levels=strange,
            table=bytes(SEED),
            catalogue=bytes(SEED),
        )

    def _bits_for(self, table: OpenTable) -> int:
        least = self._site.party.policy.min_changed_rows
        return bits_for(table.entries, TAG + table.size, 2 * least)  # which may be full by half

    def _reusable(self, before: OwnDirectory, table: OpenTable, now: datetime) -> OwnDirectory | None:
        """The directory before, if this one can have its key and leave what did not change."""
        header, policy = before.directory.header, self._site.party.policy
        same = (
            header.guest == self._guest
            and header.host == self._site.party.name
            and header.layout == self._layout
            and [list(one.normalise) for one in self._site.party.data.keys] == header.rules
            and header.bits <= self._bits_for(table) <= header.bits + _FULLER
        )
        fresh = before.keys and not is_over(policy, before.keys[-1].since, now)
        return before if same and fresh else None

    def _keys(
        self, before: OwnDirectory | None, key: KeptKey, renewed: bool, now: datetime
    ) -> tuple[KeptKey, ...]:
        """The keys under which lookups are answered: a new one, and the one before for a while."""
        if before is None or set(before.directory.header.shown) - set(self._layout.columns):
            kept: tuple[KeptKey, ...] = ()  # what guests may not see any more opens no more, either
        else:
            kept = before.keys
        older = kept[-1:] if renewed else kept[:-1]
        policy = self._site.party.policy
        return (*(one for one in older if not is_over(policy, one.last, now)), key)


def _last(kept: OwnDirectory | Withdrawn | None) -> datetime | None:
    """When the last directory was made, if there was one."""
    if isinstance(kept, Withdrawn):
        return kept.last
    return None if kept is None else kept.directory.header.made


def _new_key(now: datetime, entropy: Entropy) -> KeptKey:
    secret = voprf.derive_key(entropy(32), b"vfl directory")
    return KeptKey(secret.hex(), voprf.public_key(secret).hex(), now, now)


def _used(key: KeptKey, now: datetime) -> KeptKey:
    return KeptKey(key.secret, key.public, key.since, now)


def say_published(show: Show, done: Published) -> None:
    """Say what a directory came to, for the host's log."""
    header = done.own.directory.header
    parts = counted(header.parts, "part")
    if done.renewed:
        changed = "under a new key: guests fetch all of it"
    elif done.unchanged:
        changed = "the table is as it was"
    else:
        changed = f"{done.written:,} of {parts} written anew"
    show.say(
        f"directory {header.version} of {header.model} for {header.guest}: "
        f"{counted(header.entries, 'entry', 'entries')}, {header.size / 1e6:,.1f} MB; {changed}"
    )


class Listed(TypedDict):
    """A directory as it is listed."""

    model: str
    peer: str
    version: str | None
    made: str
    rows: int
    entries: int
    bytes: int
    of_use_until: str | None
    withdrawn: bool


def list_directories(store: Store, party: Party) -> list[Listed]:
    """The directories that a party keeps, the oldest first. Raises ModelError for a damaged one."""
    days = days_of_use(party.policy) if party.role == "host" else None
    return sorted(
        (_listed(one, days) for one in kept_directories(store).values()), key=lambda one: one["made"]
    )


def _listed(kept: OwnDirectory | Withdrawn, days: int | None) -> Listed:
    if isinstance(kept, Withdrawn):
        return Listed(
            model=kept.model,
            peer="",
            version=None,
            made=kept.withdrawn.isoformat(),
            rows=0,
            entries=0,
            bytes=0,
            of_use_until=None,
            withdrawn=True,
        )
    header = kept.directory.header
    last = last_day(header.made.date(), days)
    return Listed(
        model=header.model,
        peer=header.guest if kept.keys else header.host,
        version=header.version,
        made=header.made.isoformat(),
        rows=header.rows,
        entries=header.entries,
        bytes=header.size,
        of_use_until=None if last is None else last.isoformat(),
        withdrawn=False,
    )
