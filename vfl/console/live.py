"""What the party's commands are doing now, told as it changes; a job can be cancelled.

The pages read the small files that processes write of themselves (vfl/jobs/activity.py), nothing else: a
job does not wait for who looks.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from vfl.console.access import Session
from vfl.console.app import Console, deciding, looking
from vfl.console.charts import curves, legend
from vfl.console.form import BadForm, field
from vfl.console.inbox import waiting_jobs
from vfl.console.pages import size
from vfl.jobs.activity import JobNow, PhaseNow, ProcessNow, cancel, find_processes
from vfl.party.config_values import Role
from vfl.text import counted, how_far, waits

_PAUSE = 1.0  # seconds between two looks
_BEAT = 15.0  # seconds after which a stream without news says that it is there
_STREAMS = 32  # pages that are told at once
_TELLING = 2.0  # seconds of a step from which the time left can be told


def routes(console: Console) -> list[Route]:
    """The addresses of these pages."""
    streams = 0

    async def live(request: Request, session: Session) -> Response:
        found = await anyio.to_thread.run_sync(find_processes, console.store)
        known = shown(found.running, found.killed, console.party.role)
        return await console.page("live", session, known=known, here="/live")

    async def end(request: Request, session: Session, form: dict[str, str]) -> Response:
        job = field(form, "job")
        await anyio.to_thread.run_sync(cancel, console.store, job, session.who)
        console.say(f"job {job[:8]}: cancelled by {session.who}")
        return RedirectResponse("/live", 303)

    async def events(request: Request, session: Session) -> Response:
        nonlocal streams
        of = request.query_params.get("of", "live")
        if of not in ("live", "inbox"):
            raise BadForm(400, "events are of live or inbox")
        if streams >= _STREAMS:
            return Response(status_code=503, headers={"retry-after": "30"})

        async def told() -> AsyncIterator[str]:
            nonlocal streams
            streams += 1
            try:
                async for event in _events(console, session, of):
                    yield event
            finally:
                streams -= 1

        return StreamingResponse(told(), media_type="text/event-stream")

    return [
        Route("/live", looking(console, live)),
        Route("/live/cancel", deciding(console, end), methods=["POST"]),
        Route("/events", looking(console, events)),
    ]


async def _events(console: Console, session: Session, of: str) -> AsyncIterator[str]:
    """The part of a page whenever it is another, and a sign of life."""

    def part() -> tuple[str, str]:
        if of == "inbox":
            jobs = waiting_jobs(console.approvals.every())
            said = f"{counted(len(jobs), 'job')} waiting"
            return said, console.pages.render("inbox_jobs", jobs=jobs)
        found = find_processes(console.store)
        known = shown(found.running, found.killed, console.party.role)
        said = f"{counted(sum(len(one.jobs) for one in found.running), 'job')} running"
        return said, console.pages.render("live_jobs", session=session, known=known)

    before, told = b"", time.monotonic()
    while console.access.session(session.id) is not None:
        said, text = await anyio.to_thread.run_sync(part)
        digest = hashlib.sha256(text.encode()).digest()
        if digest != before:
            before, told = digest, time.monotonic()
            yield event("news", said) + event("part", text)
        elif time.monotonic() - told > _BEAT:
            told = time.monotonic()
            yield ": here\n\n"
        await asyncio.sleep(_PAUSE)
    yield event("over", "")


def event(name: str, text: str) -> str:
    """An event as a stream has it; lines of the text are lines of its data."""
    lines = "".join(f"data: {line}\n" for line in text.splitlines() or [""])
    return f"event: {name}\n{lines}\n"


def shown(running: list[ProcessNow], killed: list[ProcessNow], role: Role) -> dict[str, object]:
    """What the page says of processes and their jobs."""
    now = datetime.now(UTC)
    return {
        "processes": [
            {
                "command": one.command,
                "since": one.since,
                "jobs": [_job(job, now, role) for job in one.jobs],
            }
            for one in running
        ],
        "killed": [str(one.holder) for one in killed],
    }


def _job(job: JobNow, now: datetime, role: Role) -> dict[str, object]:
    """What the page says of a job."""
    keys = list(dict.fromkeys(key for step in job.losses for key, value in step.items() if value))
    series = {key: [step.get(key) for step in job.losses] for key in keys}
    return {
        "id": job.id,
        "title": " ".join([job.task, *job.about[:1]]),
        "task": job.task,
        "about": job.about,
        "parties": job.parties,
        "since": job.since,
        "step": job.step,
        "far": how_far(job.step, job.done, job.of),
        "done": job.done,
        "of": job.of,
        "left": _left(job),
        "peers": [(one.name, one.state, size(one.sent), size(one.received)) for one in job.peers],
        "phases": [(one.step, one.since, _took(one, after)) for one, after in _spans(job, now)],
        "lines": job.lines[::-1],
        "chart": curves(series, f"loss by step: {', '.join(keys)}", "step") if keys else "",
        "legend": legend(series),
        "no_chart": no_curve(role) if job.task == "train" and role != "guest" else "",
    }


def no_curve(role: Role) -> str:
    """Why a party has no curve of a training's losses, in words."""
    if role == "guest":
        return "No loss of any step is kept."
    if role == "host":
        return "The guest alone sees the loss: it has the label."
    return "Those alone who have the label see the loss: this party has no data."


def _left(job: JobNow) -> str:
    """How long the present step takes still, in words, once that can be told."""
    if job.of is None or waits(job.step) or not job.phases or not job.told:
        return ""
    phase = job.phases[-1]
    took = (_time(job.told) - _time(phase.since)).total_seconds()
    if took < _TELLING or not phase.first < job.done < job.of:
        return ""
    seconds = took * (job.of - job.done) / (job.done - phase.first)
    return f"about {seconds:,.0f} s left" if seconds < 600 else f"about {seconds / 60:,.0f} min left"


def _spans(job: JobNow, now: datetime) -> list[tuple[PhaseNow, datetime]]:
    """Each step and when the next one began."""
    ends = [_time(one.since) for one in job.phases[1:]]
    return list(zip(job.phases, [*ends, now], strict=False))


def _took(phase: PhaseNow, end: datetime) -> str:
    return f"{max(0.0, (end - _time(phase.since)).total_seconds()):,.0f} s"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
