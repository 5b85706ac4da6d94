"""The console's addresses: who is let in to each, and what errors look like."""

import hmac
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from vfl.console.access import COOKIE, Access, Session, TooMany
from vfl.console.form import BadForm, field, read_form
from vfl.console.guard import Guard
from vfl.console.pages import Pages, static_files
from vfl.errors import ModelError, VflError, fault
from vfl.party.approvals import Approvals
from vfl.party.config import Party
from vfl.party.console_section import ConsoleSection
from vfl.party.store import Store

_SAID = "said"
# What browsers take out of an address, as a line's end, could make "//" of it, which begins a host.
_OWN_ADDRESS = re.compile(r"/(?:[A-Za-z0-9_.?=&%-][A-Za-z0-9_.?=&%/-]*)?")
Answer = Callable[[Request, Session], Awaitable[Response]]


@dataclass(frozen=True)
class Console:
    """What all pages are made from."""

    party: Party
    section: ConsoleSection
    store: Store
    access: Access
    scheme: str  # http or https
    say: Callable[[str], None]
    pages: Pages

    @property
    def approvals(self) -> Approvals:
        return Approvals(self.store)

    @property
    def cookie(self) -> str:
        """The name of the cookie: with TLS one that no other name of the site can set."""
        return f"__Host-{COOKIE}" if self.scheme == "https" else COOKIE

    def session_of(self, request: Request) -> Session | None:
        """Who asks."""
        return self.access.session(request.cookies.get(self.cookie))

    async def page(
        self, template: str, session: Session, *, status: int = 200, **known: object
    ) -> HTMLResponse:
        """A page for who has signed in."""

        def render() -> str:
            waiting = len(self.approvals.waiting())
            return self.pages.render(template, session=session, waiting=waiting, **known)

        return HTMLResponse(await anyio.to_thread.run_sync(render), status)

    def signed_in(self, request: Request, session: Session, then: str) -> Response:
        """Have a browser keep a session, and lead it on. No redirect: after one that begins at another
        site, as a provider's, a strict cookie would not be sent."""
        answer = HTMLResponse(self.pages.render("signed_in", then=_own_address(then)))
        answer.set_cookie(
            self.cookie,
            session.id,
            max_age=60 * self.section.session,
            httponly=True,
            samesite="strict",
            secure=self.scheme == "https",
        )
        return answer


def _own_address(then: str) -> str:
    """An address of the console to lead on to; its first page for what could be another site's."""
    return then if _OWN_ADDRESS.fullmatch(then) else "/"


def looking(console: Console, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    """A page for anybody who has signed in; others sign in first."""

    async def guarded(request: Request) -> Response:
        session = console.session_of(request)
        if session is None:
            if request.url.path.startswith("/events"):
                return Response(status_code=401)
            then = quote(request.url.path, safe="/")
            return RedirectResponse(f"/signin?then={then}", 303)
        return await answer(request, session)

    return guarded


def deciding(
    console: Console, answer: Callable[[Request, Session, dict[str, str]], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    """What changes something: for who may approve, from a page of that session."""

    async def guarded(request: Request) -> Response:
        session, form = await checked(console, request)
        if not session.may_approve:
            raise HTTPException(403, "you may look, and not decide: sign in with the other token")
        return await answer(request, session, form)

    return guarded


async def checked(console: Console, request: Request) -> tuple[Session, dict[str, str]]:
    """Who sends a form of the console, and what. Raises HTTPException."""
    session = console.session_of(request)
    if session is None:
        raise HTTPException(401, "your session has ended: sign in again")
    form = await read_form(request)
    check_csrf(session, form)
    return session, form


def check_csrf(session: Session, form: dict[str, str]) -> None:
    """Raises HTTPException for a form that is not of a page of this session."""
    if not hmac.compare_digest(field(form, "csrf").encode(), session.csrf.encode()):
        raise HTTPException(403, "this form is of another session: open the page again")


def application(console: Console, routes: list[Route], hosts: set[str]) -> ASGIApp:
    """All pages, behind the guard."""
    files = static_files()

    async def static(request: Request) -> Response:
        found = files.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404, "there is no such page")
        return Response(found[1], media_type=found[0])

    async def failed(request: Request, error: Exception) -> Response:
        status, text = _words_of(error)
        if status == 500:
            console.say(f"error: {text}")
            error.add_note(_SAID)
            text = "a fault of the console: its log has the details"
        session, words = console.session_of(request), HTTPStatus(status).phrase
        if session is None:
            page = console.pages.render("error_alone", status=status, words=words, text=text)
            answer: Response = HTMLResponse(page, status)
        else:
            known = {"code": status, "words": words, "text": text, "here": ""}
            answer = await console.page("error", session, status=status, **known)
        if isinstance(error, TooMany):
            answer.headers["retry-after"] = str(max(1, round(error.seconds)))
        return answer

    app = Starlette(
        routes=[
            *routes,
            Route("/static/{name}", static),
            Route("/favicon.ico", _nothing),  # which browsers ask for in any case
            Route("/signin", _sign_in_page(console)),
            Route("/signin", _sign_in(console), methods=["POST"]),
            Route("/signout", _sign_out(console), methods=["POST"]),
        ],
        exception_handlers=dict.fromkeys((HTTPException, BadForm, VflError, TooMany, Exception), failed),
    )
    app.router.redirect_slashes = False
    return Guard(_Quiet(app, console.say), hosts, console.scheme)


async def _nothing(request: Request) -> Response:
    return Response(status_code=204)


class _Quiet:
    """Starlette raises a fault again once it is answered; its line has been said."""

    def __init__(self, app: ASGIApp, say: Callable[[str], None]) -> None:
        self._app, self._say = app, say

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            if _SAID not in getattr(error, "__notes__", ()):  # as of a stream that had begun
                self._say(f"error: {fault(error)}")


def _words_of(error: Exception) -> tuple[int, str]:
    """The status and the line of an error."""
    if isinstance(error, HTTPException):
        plain = {404: "there is no such page", 405: "this page takes another method"}
        return error.status_code, plain.get(error.status_code, error.detail)
    if isinstance(error, BadForm):
        return error.status, str(error)
    if isinstance(error, TooMany):
        return 429, f"too many sign-ins failed: try again in {error.seconds:.0f} s"
    if isinstance(error, ModelError):
        return 404, str(error)
    if isinstance(error, VflError):
        return 409, str(error)
    return 500, fault(error)


def _sign_in_page(console: Console) -> Callable[[Request], Awaitable[Response]]:
    async def shown(request: Request) -> Response:
        then = request.query_params.get("then", "/")
        return HTMLResponse(_sign_in_form(console, then, ""))

    return shown


def _sign_in_form(console: Console, then: str, said: str, name: str = "") -> str:
    oidc = console.section.oidc is not None
    made = bool(console.access.made)
    return console.pages.render(
        "signin", then=_own_address(then), said=said, name=name, oidc=oidc, made=made
    )


def _sign_in(console: Console) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        form = await read_form(request)
        name = "".join(c for c in field(form, "name") if c.isprintable())[:80]
        session = console.access.sign_in(field(form, "token"), name)
        if session is None:
            console.say("a sign-in with a token that is none")
            said = "This token is none of the console's."
            return HTMLResponse(_sign_in_form(console, field(form, "then"), said, name), 403)
        console.say(f"{session.who} signed in, to {session.role}")
        return console.signed_in(request, session, field(form, "then"))

    return answer


def _sign_out(console: Console) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        session, _ = await checked(console, request)
        console.access.sign_out(session)
        gone = RedirectResponse("/signin", 303)
        gone.delete_cookie(console.cookie, secure=console.scheme == "https", samesite="strict")
        return gone

    return answer
