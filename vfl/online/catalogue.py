"""The models that are served, with their directories: made ready beside those in use, and put in their
place at once, so that no request notices."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

from vfl.errors import ModelError, VflError
from vfl.jobs.names import began, resolve_model
from vfl.models.across import not_by_parts
from vfl.models.halves import AnyGuestHalf, GuestHalf
from vfl.models.kinds import load_half
from vfl.online.lookups import HostDirectory, SharedLookups
from vfl.online.rows import RowReader
from vfl.online.served import ServedHost, ServedModel
from vfl.party.online_section import OnlineSection
from vfl.party.sections import DataSection
from vfl.party.store import Store


class DirectorySource(Protocol):
    """The ways to hosts' directories."""

    async def directory(self, half: AnyGuestHalf, host: str) -> HostDirectory:
        """A host's directory for a model, the same object each time: it becomes a newer one by itself.

        Raises NoDirectory where there is none yet.
        """

    async def part(self, directory: HostDirectory) -> None:
        """Part with a host as to one model."""


class NoDirectory(ModelError):
    """A model without a directory of one of its hosts, of which there may be one soon."""


@dataclass(frozen=True)
class Sources:
    """What models are made of: the party's store, its [data] and the directories of hosts."""

    store: Store
    data: DataSection
    directories: DirectorySource
    check: Callable[[AnyGuestHalf], None] = lambda half: None
    """Raises ModelError for a model of other parties than those of the party file."""


class Catalogue:
    """The models that are served now."""

    def __init__(
        self, sources: Sources, section: OnlineSection, threads: Executor, say: Callable[[str], None]
    ) -> None:
        self._sources, self._section, self._threads, self._say = sources, section, threads, say
        self._models: Mapping[str, ServedModel] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._said: dict[str, str] = {}  # by model, why it is not as the store has it

    @property
    def models(self) -> Mapping[str, ServedModel]:
        """By name."""
        return self._models

    def find(self, name: str | None) -> ServedModel:
        """A model by its name, or by its job's; the only one, where none is named. Raises ModelError."""
        models = self._models
        if name is None:
            if len(models) == 1:
                return next(iter(models.values()))
            raise ModelError("name a model: there are several" if models else "there is no model yet")
        if name in models:
            return models[name]
        of_job = [known for known in models if _job_of(known) == name]
        if not of_job:
            raise ModelError("no such model: GET /v1/models has those that there are")
        return models[max(of_job, key=began)]

    async def refresh(self, explains: bool, *, strict: bool = False) -> None:
        """Look for newer models and directories, and take them in.

        A model that cannot be made ready is left as it was, and it is said why. Raises what stands
        against a model, if `strict`, unless it is a directory that may come yet.
        """
        waits = False
        made: dict[str, ServedModel] = {}
        for asked, name in await asyncio.to_thread(self._names):
            try:
                made[name] = await self._model(name, explains)
                self._said.pop(asked, None)
            except VflError as error:
                waits |= isinstance(error, NoDirectory)
                if strict and self._section.models is not None and not isinstance(error, NoDirectory):
                    raise
                self._tell(asked, f"model {name} is not served: {error}")
                made |= {old: model for old, model in self._models.items() if _job_of(old) == asked}
        if not made and strict and not waits:
            why = "; ".join(self._said.values()) or "there is no model yet: `vfl train` makes one"
            raise ModelError(f"there is no model to serve: {why}")
        before, self._models = self._models, made
        for name, model in made.items():
            if before.get(name) is not model:
                self._say(f"serving {name}{_directories_in_words(model)}")
        for name, model in before.items():
            if name not in made:
                self._say(f"no longer serving {name}")
                self._retiring.add(asyncio.create_task(self._retire(model)))

    async def _retire(self, model: ServedModel) -> None:
        """Part with a model's hosts once nothing is under way any more."""
        await asyncio.sleep(self._section.drain)
        for host in model.hosts.values():
            await host.lookups.close()
            await self._sources.directories.part(host.lookups.directory)

    async def close(self) -> None:
        """Part with all hosts."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        for model in self._models.values():
            for host in model.hosts.values():
                await host.lookups.close()

    def _names(self) -> list[tuple[str, str]]:
        """The models to be served: what names each, and its full name."""
        store = self._sources.store
        if self._section.models is not None:
            return [(name, resolve_model(store, name)) for name in self._section.models]
        newest: dict[str, str] = {}
        for name in sorted(store.names("model"), key=began):
            newest[_job_of(name)] = name
        return list(newest.items())

    async def _model(self, name: str, explains: bool) -> ServedModel:
        """A model as it is in the store now, the one that is served if nothing has changed."""
        before = self._models.get(name)
        if before is not None and before.explains_at_all == explains:
            return before
        half = before.half if before is not None else await asyncio.to_thread(self._half, name)
        if why := not_by_parts(half.model):
            raise ModelError(f"model {half.name} {why}")
        hosts: dict[str, ServedHost] = {} if before is None else dict(before.hosts)
        if before is None:
            for host in half.model.parties[1:]:
                directory = await self._sources.directories.directory(half, host)
                rules, window = self._section.host(host), self._section.window / 1000
                lookups = SharedLookups(directory, rules.deadline / 1000, window, self._say)
                await lookups.warm_up(1 + len(self._sources.data.fallback))
                hosts[host] = ServedHost(lookups, rules)
        reader = RowReader(self._sources.data, half) if before is None else before.reader

        def make() -> ServedModel:
            model = ServedModel(half, reader, hosts, self._threads, explains)
            model.warm_up()
            return model

        return await asyncio.to_thread(make)

    def _half(self, name: str) -> AnyGuestHalf:
        half = load_half(self._sources.store, name, GuestHalf)
        if half.classes:
            raise ModelError(
                "it tells several classes apart, and vfl online answers with one prediction a row: use "
                "vfl score"
            )
        self._sources.check(half)
        return half

    def _tell(self, asked: str, line: str) -> None:
        """Say what stands against a model, once."""
        if self._said.get(asked) != line:
            self._said[asked] = line
            self._say(line)


def _job_of(name: str) -> str:
    return name.rsplit("-", 3)[0]


def _directories_in_words(model: ServedModel) -> str:
    if not model.hosts:
        return ""
    each = [f"{name} {host.lookups.directory.version}" for name, host in model.hosts.items()]
    return f" with the directories of {' and '.join(each)}"
