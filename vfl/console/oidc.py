"""Sign-in by OpenID Connect: the authorization code flow with PKCE, by authlib.

1. `/signin/oidc` sends the browser to the provider, with `state` and `nonce` that are kept here, and
   in the browser a cookie that ties the answer to it.
2. The provider sends it back to `/signin/oidc/callback` with a code, which is exchanged for an ID token.
   Its signature, issuer, audience, time and nonce are checked.
3. Who the token names may look or approve, as `[console.oidc]` says; nobody else is let in.
"""

import hmac
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict, cast
from urllib.parse import urlsplit

import httpx2
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, KeySetSerialization
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from vfl.console.access import Role, read_secret
from vfl.console.app import Console
from vfl.party.console_section import OidcSection

_COOKIE = "vfl_console_oidc"
_CALLBACK = "/signin/oidc/callback"
_WITHIN = 600.0  # seconds for which a sign-in may take
_MOST = 100  # sign-ins under way
_SECONDS = 10.0  # for each request to the provider
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"]


class _Provider(TypedDict):
    """What is needed of a provider's document."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str


@dataclass(frozen=True)
class _Begun:
    """A sign-in under way."""

    browser: str  # the cookie's
    nonce: str
    verifier: str
    then: str
    back: str  # where the provider sends the browser
    ends: float


class Oidc:
    """The provider of the company, as the console uses it."""

    def __init__(self, console: Console, section: OidcSection) -> None:
        """Raises ConfigError and IdentityError for a file of a secret that cannot be used."""
        self._console, self._section = console, section
        path = section.client_secret
        self._secret = None if path is None else read_secret(path, "client_secret")
        self._begun: dict[str, _Begun] = {}

    def routes(self) -> list[Route]:
        """Its addresses."""
        return [Route("/signin/oidc", self._begin), Route(_CALLBACK, self._end)]

    async def _begin(self, request: Request) -> Response:
        """Send the browser to the provider."""
        self._console.access.check_tries()
        now = time.monotonic()
        self._begun = {state: one for state, one in self._begun.items() if one.ends > now}
        if len(self._begun) >= _MOST:
            raise HTTPException(503, "too many sign-ins are under way: try again soon")
        host = request.headers["host"]
        back = f"{self._console.scheme}://{host}{_CALLBACK}"
        begun = _Begun(
            secrets.token_urlsafe(24),
            secrets.token_urlsafe(24),
            secrets.token_urlsafe(48),
            request.query_params.get("then", "/"),
            back,
            now + _WITHIN,
        )
        async with self._client(back) as client:
            provider = await self._provider(client)
            address, state = client.create_authorization_url(
                provider["authorization_endpoint"], code_verifier=begun.verifier, nonce=begun.nonce
            )
        self._begun[state] = begun
        answer = RedirectResponse(address, 303)
        answer.set_cookie(
            _COOKIE,
            begun.browser,
            max_age=round(_WITHIN),
            httponly=True,
            samesite="lax",  # the provider leads the browser back
            secure=self._console.scheme == "https",
            path="/signin/oidc",
        )
        return answer

    async def _end(self, request: Request) -> Response:
        """Let in whom the provider names, if [console.oidc] does."""
        access = self._console.access
        access.check_tries()
        query = request.query_params
        begun = self._begun.pop(query.get("state", ""), None)
        cookie = request.cookies.get(_COOKIE, "")
        ours = begun is not None and hmac.compare_digest(begun.browser.encode(), cookie.encode())
        if begun is None or not ours or begun.ends < time.monotonic():
            # Not counted: any site's page can have a browser ask for this, and nobody guesses a state.
            raise HTTPException(403, "this sign-in was not begun here, or took too long: begin again")
        if "code" not in query:
            raise HTTPException(403, "the provider did not sign you in")
        try:
            async with self._client(begun.back) as client:
                provider = await self._provider(client)
                token = await client.fetch_token(
                    provider["token_endpoint"],
                    grant_type="authorization_code",
                    code=query["code"],
                    code_verifier=begun.verifier,
                )
                keys = await self._get(client, provider["jwks_uri"])
            claims = self._claims(str(token.get("id_token", "")), keys, begun.nonce)
        except (AuthlibBaseError, JoseError, ValueError):
            access.count_failure()
            self._console.say("a sign-in by OpenID Connect whose token does not hold")
            raise HTTPException(403, "the provider's answer does not hold: begin again") from None
        who, role = self._who(claims)
        self._console.say(f"{who} signed in by OpenID Connect, to {role}")
        answer = self._console.signed_in(request, access.admit(role, f"{who} (console)"), begun.then)
        answer.delete_cookie(_COOKIE, path="/signin/oidc")
        return answer

    def _who(self, claims: Mapping[str, object]) -> tuple[str, Role]:
        """Who signs in, and to do what. Raises HTTPException for anybody else."""
        section = self._section
        who = claims.get(section.claim)
        verified = section.claim != "email" or claims.get("email_verified") is True
        if isinstance(who, str) and verified:
            if who in section.approve:
                return who, "approve"
            if who in section.look:
                return who, "look"
        self._console.access.count_failure()
        raise HTTPException(403, "the provider knows you, and this console does not: ask its people")

    def _claims(self, token: str, keys: object, nonce: str) -> Mapping[str, object]:
        """What a token says. Raises JoseError and ValueError for one that does not hold."""
        section = self._section
        key_set = KeySet.import_key_set(cast(KeySetSerialization, keys))
        found = jwt.decode(token, key_set, algorithms=_ALGORITHMS)
        expected = {"iss": section.issuer, "aud": section.client_id, "nonce": nonce}
        registry = jwt.JWTClaimsRegistry(
            leeway=60,
            exp={"essential": True},
            iss={"essential": True, "value": expected["iss"]},
            aud={"essential": True, "value": expected["aud"]},
            nonce={"essential": True, "value": expected["nonce"]},
        )
        registry.validate(found.claims)
        return found.claims

    def _client(self, back: str) -> AsyncOAuth2Client:
        return AsyncOAuth2Client(
            self._section.client_id,
            self._secret,
            scope="openid email profile",
            redirect_uri=back,
            code_challenge_method="S256",
            token_endpoint_auth_method="none" if self._secret is None else "client_secret_basic",
            timeout=_SECONDS,
            follow_redirects=False,
        )

    async def _provider(self, client: AsyncOAuth2Client) -> _Provider:
        """What the provider says of itself. Raises HTTPException where it cannot be asked."""
        issuer = self._section.issuer
        address = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        found = await self._get(client, address)
        names = ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri")
        whole = isinstance(found, dict) and all(isinstance(found.get(name), str) for name in names)
        # Another scheme than the issuer's would send the code in plain.
        scheme = urlsplit(issuer).scheme
        if not isinstance(found, dict) or not whole or found["issuer"] != issuer:
            raise HTTPException(
                502, "the provider does not say what it is: check issuer in [console.oidc]"
            )
        if any(urlsplit(str(found[name])).scheme not in (scheme, "https") for name in names):
            raise HTTPException(502, "the provider has addresses without TLS")
        return cast(_Provider, found)

    async def _get(self, client: AsyncOAuth2Client, address: str) -> object:
        """A document of the provider. Raises HTTPException where it cannot be had."""
        try:
            answer = await client.request("GET", address, withhold_token=True)
            answer.raise_for_status()
            return answer.json()
        except (httpx2.HTTPError, ValueError):
            self._console.say("the provider of [console.oidc] cannot be asked")
            raise HTTPException(502, "the provider cannot be asked now: try again soon") from None
