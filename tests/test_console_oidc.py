"""Sign-in to the console by OpenID Connect, with a small provider in the tests' process."""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from consoles import Running, serving
from joserfc import jwt
from joserfc.jwk import RSAKey
from kept_parties import copy_parties

from vfl.console import access


class Provider:
    """Signs everybody in whom the test names: authorization code flow with PKCE."""

    def __init__(self) -> None:
        self.key, self.other = (RSAKey.generate_key(2048, {"kid": name}) for name in "ab")
        self.claims: dict[str, Any] = {}
        self.signs, self.issuer_said = self.key, ""
        self.codes: dict[str, dict[str, str]] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

            def do_GET(self) -> None:
                self._tell(provider.document(self.path))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                self._tell(provider.token({k: v[0] for k, v in parse_qs(body).items()}))

            def _tell(self, found: object) -> None:
                self.send_response(200 if found is not None else 400)
                self.send_header("content-type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(found).encode())

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def document(self, path: str) -> object:
        if path == "/jwks":
            return {"keys": [self.key.as_dict(private=False)]}
        return {
            "issuer": self.issuer_said or self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
        }

    def authorize(self, address: str) -> str:
        """What the provider's page does once a person has signed in: the address to go back to."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        assert asked["response_type"] == "code" and asked["code_challenge_method"] == "S256"
        code = f"code-{len(self.codes)}"
        self.codes[code] = asked
        return f"{asked['redirect_uri']}?code={code}&state={asked['state']}"

    def token(self, form: dict[str, str]) -> object:
        asked = self.codes.pop(form.get("code", ""), None)
        if asked is None:
            return None
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != asked["code_challenge"]:
            return None
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": asked["client_id"],
            "nonce": asked["nonce"],
            "iat": now,
            "exp": now + 60,
            **self.claims,
        }
        token = jwt.encode({"alg": "RS256", "kid": "a"}, claims, self.signs)
        return {"access_token": "x", "token_type": "Bearer", "id_token": token}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="module")
def console(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    party = copy_parties("v1", tmp_path_factory.mktemp("oidc"))["registry"]
    oidc = {
        "issuer": provider.issuer,
        "client_id": "console",
        "look": ["bob@example.org"],
        "approve": ["ada@example.org"],
    }
    with serving(party, oidc=oidc) as made:
        yield made


@pytest.fixture(autouse=True)
def as_usual(provider: Provider, console: Running) -> Iterator[None]:
    provider.claims = {"email": "ada@example.org", "email_verified": True}
    provider.signs, provider.issuer_said = provider.key, ""
    yield
    console.service.access._failed.clear()


def sign_in(console: Running, provider: Provider) -> tuple[httpx.Client, httpx.Response]:
    """The way of a browser: there, to the provider, and back."""
    client = httpx.Client(base_url=console.base, timeout=60)
    begun = client.get("/signin/oidc")
    assert begun.status_code == 303, begun.text
    cookie = begun.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie
    address = begun.headers["location"]
    assert address.startswith(f"{provider.issuer}/authorize?")
    return client, client.get(provider.authorize(address))


@pytest.mark.parametrize(("who", "may"), [("ada", "may approve"), ("bob", "may look")])
def test_the_provider_says_who_it_is(console: Running, provider: Provider, who: str, may: str) -> None:
    provider.claims["email"] = f"{who}@example.org"
    client, answer = sign_in(console, provider)
    assert answer.status_code == 200 and 'http-equiv="refresh"' in answer.text
    assert "SameSite=strict" in answer.headers["set-cookie"]
    page = client.get("/")
    assert page.status_code == 200 and f"{who}@example.org (console), {may}" in page.text


@pytest.mark.parametrize(
    "claims",
    [
        {"email": "eve@example.org"},
        {"email_verified": False},
        {"email_verified": None},
        {"email": ["ada@example.org"]},
        {"aud": "another"},
        {"iss": "https://evil.example"},
        {"nonce": "of another sign-in"},
        {"exp": 1},
    ],
)
def test_whom_it_does_not_name_is_not_let_in(
    console: Running, provider: Provider, claims: dict[str, object]
) -> None:
    provider.claims |= claims
    client, answer = sign_in(console, provider)
    assert answer.status_code == 403
    assert client.get("/").status_code == 303


def test_a_token_of_another_key_is_none(console: Running, provider: Provider) -> None:
    provider.signs = provider.other
    client, answer = sign_in(console, provider)
    assert answer.status_code == 403 and "does not hold" in answer.text
    assert client.get("/").status_code == 303


def test_a_sign_in_is_of_the_browser_that_began_it(console: Running, provider: Provider) -> None:
    ours, theirs = (httpx.Client(base_url=console.base, timeout=60) for _ in range(2))
    back = provider.authorize(ours.get("/signin/oidc").headers["location"])
    theirs.get("/signin/oidc")
    assert theirs.get(back).status_code == 403  # with a cookie of its own
    assert ours.get(back).status_code == 403  # which has used it up
    again = provider.authorize(ours.get("/signin/oidc").headers["location"])
    assert ours.get(again).status_code == 200
    assert ours.get(again).status_code == 403  # once
    assert ours.get("/signin/oidc/callback?state=x&code=y").status_code == 403


def test_what_other_sites_have_browsers_ask_for_keeps_nobody_out(
    console: Running, provider: Provider
) -> None:
    for number in range(access._TRIES + 1):
        back = f"{console.base}/signin/oidc/callback?state=x{number}&code=y"
        assert httpx.get(back, timeout=60).status_code == 403
    _, answer = sign_in(console, provider)
    assert answer.status_code == 200
    provider.claims["email"] = "eve@example.org"
    for _ in range(access._TRIES):  # whom the provider knows, and the console does not
        assert sign_in(console, provider)[1].status_code == 403
    assert httpx.get(f"{console.base}/signin/oidc", timeout=60).status_code == 429


def test_a_provider_that_says_it_is_another_is_none(console: Running, provider: Provider) -> None:
    provider.issuer_said = "https://evil.example"
    answer = httpx.get(f"{console.base}/signin/oidc", timeout=60)
    assert answer.status_code == 502 and "check issuer" in answer.text
