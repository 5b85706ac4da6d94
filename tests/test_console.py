"""The console over HTTP: who is let in to what, and what the pages say."""

import html
import itertools
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from commands import command
from consoles import REQUEST, Browser, Running, serving
from federation import Party
from kept_parties import copy_parties

from vfl.console import access, live
from vfl.console.charts import curves
from vfl.errors import ConfigError, IdentityError, Refused
from vfl.jobs import activity
from vfl.jobs.activity import Activity, JobNow, PhaseNow, ProcessNow
from vfl.party.approvals import Approvals
from vfl.party.audit.tables import export_copy
from vfl.party.config import load_party
from vfl.party.config_values import Role
from vfl.party.console_section import ConsoleSection
from vfl.party.refusals import RefusalCounts

PAGES = ("/", "/live", "/runs", "/kept", "/ledger", "/ledger/verify", "/policy")
RUNS = ("claims-20261128-234030-38f3b4", "linear-20261128-234032-4d904d")
COMPARED = f"/runs/compare?run={RUNS[0]}&run={RUNS[1]}"
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'"


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Party]:
    return copy_parties("v1", tmp_path_factory.mktemp("console"))


@pytest.fixture(scope="module")
def host(parties: dict[str, Party]) -> Iterator[Running]:
    parties["registry"].settings["policy"]["approve"] = "person"
    with serving(parties["registry"]) as made:
        yield made


@pytest.fixture(scope="module")
def guest(parties: dict[str, Party]) -> Iterator[Running]:
    with serving(parties["insurer"]) as made:
        yield made


@pytest.fixture(scope="module")
def lead(parties: dict[str, Party]) -> Iterator[Running]:
    with serving(parties["umpire"]) as made:
        yield made


@pytest.fixture
def ada(host: Running) -> Browser:
    return host.browser("approve")


@pytest.fixture
def bob(host: Running) -> Browser:
    return host.browser("look", "bob")


def heading(answer: httpx.Response) -> str:
    found = re.search(r"<h1>([^<]*)</h1>", answer.text)
    assert found is not None, answer.text
    return found[1]


# --- Who is let in. ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*PAGES, COMPARED, "/requests/0a1b2c3d", f"/runs/{RUNS[0]}/report"])
def test_nothing_is_shown_without_a_token(host: Running, path: str) -> None:
    answer = host.browser().get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/signin?then=/")
    forged = httpx.get(host.base + path, cookies={"vfl_console": secrets.token_urlsafe(32)})
    assert forged.status_code == 303
    assert host.browser().get("/events").status_code == 401


def test_a_wrong_token_opens_nothing_and_tries_are_counted(host: Running) -> None:
    browser = host.browser()
    try:
        for _ in range(access._TRIES):
            answer = browser.sign_in("a" * 43)
            assert answer.status_code == 403 and "none of the console" in answer.text
            assert 'value="ada"' in answer.text  # the name need not be typed again
        refused = browser.sign_in(host.token("look"))  # the right one does not help now
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert "set-cookie" not in refused.headers
    finally:
        host.service.access._failed.clear()
    assert browser.sign_in(host.token("look")).status_code == 200


def test_a_session_is_a_cookie_that_no_script_and_no_other_site_gets(host: Running) -> None:
    answer = host.browser().sign_in(host.token("look"))
    cookie = answer.headers["set-cookie"]
    for word in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=28800"):
        assert word in cookie
    assert host.token("look") not in answer.text + cookie
    assert 'http-equiv="refresh" content="0; url=/"' in answer.text
    for there in ("//evil.example/", "https://evil.example/", "/\\evil.example", "javascript:x"):
        answer = host.browser().post("/signin", token=host.token("look"), name="a", then=there)
        assert 'url=/"' in answer.text and "evil" not in answer.text


@pytest.mark.parametrize(
    ("then", "leads"),
    [
        *((then, "/") for then in ("", "//evil", "/\\evil", "/\n/evil", "/\t/evil", "/\x1b.evil")),
        *((then, "/") for then in ("https://evil", "/;url=//evil", "/runs\n", "/a'b", "evil")),
        *((then, then) for then in ("/", "/runs", "/ledger?words=a%20b&day=2026-11-30", "/requests/0a")),
    ],
)
def test_a_sign_in_leads_to_the_consoles_own_pages(host: Running, then: str, leads: str) -> None:
    browser = host.browser()
    form = browser.client.get("/signin", params={"then": then}).text
    found = re.search(r'name="then" value="([^"]*)"', form)
    assert found is not None and html.unescape(found[1]) == leads
    answer = browser.post("/signin", token=host.token("look"), name="bob", then=then)
    urls = re.findall(r'(?:url=|href=")(/[^"]*)"', answer.text)
    assert leads in {html.unescape(url) for url in urls} and "evil" not in answer.text


def test_a_session_ends(host: Running) -> None:
    browser = host.browser("look")
    assert browser.get("/").status_code == 200
    assert browser.post("/signout", csrf=browser.csrf).status_code == 303
    assert browser.get("/").status_code == 303
    other = host.browser("look")
    sessions = host.service.access._sessions
    sessions |= {key: replace(one, ends=0.0) for key, one in sessions.items()}
    assert other.get("/").status_code == 303


def test_only_the_consoles_own_name_is_answered(host: Running, ada: Browser) -> None:
    port = host.service.port
    for name in ("evil.example", f"evil.example:{port}", "127.0.0.1:1", "127.0.0.1", ""):
        answer = ada.get("/", host=name)
        assert answer.status_code in (400, 421), name
        assert "waiting" not in answer.text
    for name in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert ada.get("/signin", host=name).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_forms_of_other_sites_change_nothing(
    host: Running, ada: Browser, headers: dict[str, str]
) -> None:
    with host.waiting() as request:
        done = ada.post(f"/requests/{request.id}", headers, csrf=ada.csrf, decision="approve")
        assert done.status_code == 403
        assert Approvals(host.store).decision(request.id) is None


def test_a_form_without_its_sessions_word_changes_nothing(host: Running, ada: Browser) -> None:
    with host.waiting() as request:
        path = f"/requests/{request.id}"
        for word in ("", "x", host.browser("approve").csrf):
            assert ada.post(path, csrf=word, decision="approve").status_code == 403
        assert ada.post(path, decision="approve").status_code == 403
        assert ada.client.post(path, json={"csrf": ada.csrf}).status_code == 415
        assert ada.get(f"{path}?decision=approve&csrf={ada.csrf}").status_code == 200
        assert Approvals(host.store).decision(request.id) is None
        assert ada.post("/signout", csrf="x").status_code == 403


def test_who_may_look_may_not_decide(host: Running, bob: Browser) -> None:
    with host.waiting() as request:
        page = bob.get(f"/requests/{request.id}").text
        assert "Who may approve signs in with the other token" in page and "Approve</button>" not in page
        done = bob.post(f"/requests/{request.id}", csrf=bob.csrf, decision="approve")
        assert done.status_code == 403 and "you may look" in done.text
        assert bob.post("/live/cancel", csrf=bob.csrf, job="00000000").status_code == 403
        assert Approvals(host.store).decision(request.id) is None


# --- What pages are made of. -------------------------------------------------------------------------


class Seen(HTMLParser):
    """What a page has of what a policy or a reader cares for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.tags if name == tag]


@pytest.mark.parametrize(
    ("whose", "path"),
    [(whose, path) for whose in ("host", "guest") for path in (*PAGES, COMPARED)]
    + [("lead", path) for path in PAGES],
)
def test_every_page_loads_only_its_own_and_can_be_read(
    request: pytest.FixtureRequest, whose: str, path: str
) -> None:
    running: Running = request.getfixturevalue(whose)
    answer = running.browser("approve").get(path)
    assert answer.status_code == 200, answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    seen = Seen(answer.text)
    assert [one["src"] for one in seen.all("script")] == ["/static/console.js"]
    assert [one["href"] for one in seen.all("link")] == ["/static/console.css"]
    assert not seen.all("style") and not seen.all("iframe")
    for _, found in seen.tags:
        assert not any(name.startswith("on") or name == "style" for name in found), found
    assert seen.all("html") == [{"lang": "en"}]
    assert [len(seen.all(tag)) for tag in ("h1", "main", "header", "footer")] == [1, 1, 1, 1]
    assert all(one.get("aria-label") for one in seen.all("nav"))
    here = [one["href"] for one in seen.all("a") if one.get("aria-current")]
    assert len(here) == 1
    named = {one.get("for") for one in seen.all("label")}
    for one in [*seen.all("input"), *seen.all("select")]:
        kind = one.get("type")
        assert kind == "hidden" or one.get("aria-label") or one.get("id") in named or kind == "checkbox"
    for one in seen.all("section"):
        assert one.get("aria-label") or one.get("aria-labelledby")
    levels = [int(tag[1]) for tag, _ in seen.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels)), levels
    assert answer.text.count("<caption><h") == answer.text.count("<caption>")
    ids = [found["id"] for _, found in seen.tags if found.get("id")]
    assert len(ids) == len(set(ids))


def test_the_script_and_the_style_are_all_there_is_to_load(host: Running) -> None:
    browser = host.browser()
    script, style = (browser.get(f"/static/console.{kind}") for kind in ("js", "css"))
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert style.headers["content-type"] == "text/css; charset=utf-8"
    assert "http" not in script.text and "@import" not in style.text and "url(" not in style.text
    for name in ("../app.py", "..%2fapp.py", "%2e%2e/app.py", "console.css.bak", ""):
        assert browser.get(f"/static/{name}").status_code in (303, 404)


# --- Inbox. ------------------------------------------------------------------------------------------


def test_a_job_is_shown_and_approved(host: Running, ada: Browser) -> None:
    with host.waiting() as request:
        listed = ada.get("/").text
        assert "train claims" in listed and "insurer asks, for: pricing" in listed
        assert '<strong class="count">1' in listed
        page = ada.get(f"/requests/{request.id}").text
        for text in ("36,412", "power", "brand", "bins of rows", "76 %", "0.01 told before", "30"):
            assert text in page
        done = ada.post(f"/requests/{request.id}", csrf=ada.csrf, decision="approve", reason="as agreed")
        assert done.status_code == 303
        decision = Approvals(host.store).decision(request.id)
        assert decision is not None
        assert (decision.outcome, decision.reason) == ("approved", "as agreed")
        assert decision.who == "ada (console, token)"
        late = ada.post(f"/requests/{request.id}", csrf=ada.csrf, decision="refuse")
        assert late.status_code == 409 and "does not wait any more: approved by ada" in late.text
    assert "by ada" in ada.get(f"/requests/{request.id}").text
    assert any(f"{request.id}: approved by ada" in line for line in host.said)


def test_what_others_write_is_text(host: Running, ada: Browser) -> None:
    hostile = {
        "id": "00000bad",
        "guest": HOSTILE,
        "job": HOSTILE,
        "purpose": HOSTILE,
        "model": HOSTILE,
        "columns": [HOSTILE],
        "budget": [HOSTILE],
        "policy": [HOSTILE],
        "hosts": [HOSTILE],
        "asks": HOSTILE,
        "kind": HOSTILE,
    }
    with host.waiting(**hostile):
        for path in ("/", "/requests/00000bad"):
            text = ada.get(path).text
            assert "<script>alert" not in text and "<img" not in text
            assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
        reason = HOSTILE
        ada.post("/requests/00000bad", csrf=ada.csrf, decision="refuse", reason=reason)
    for path in ("/", "/requests/00000bad"):
        text = ada.get(path).text
        assert "<script>alert" not in text and "&lt;script&gt;" in text
    named = host.browser("approve", HOSTILE)
    assert "<script>alert" not in named.get("/").text
    for path in (f"/requests/{HOSTILE}", f"/runs/{HOSTILE}/report", f"/ledger?words={HOSTILE}"):
        text = ada.get(path).text
        assert "<script>alert" not in text and "onerror=alert(2)>" not in text


@pytest.mark.parametrize(
    "path",
    [
        "/requests/..%2f..%2fkeys%2fregistry",
        "/requests/0A1B2C3D",
        "/requests/0a1b2c3d%00",
        "/runs/..%2f..%2f..%2ftable/report",
        "/runs/%2fetc%2fpasswd/report",
        "/runs/compare?run=../../table&run=../registry",
        "/runs/compare?run=/etc/passwd&run=/etc/hosts",
    ],
)
def test_a_name_is_no_path(ada: Browser, path: str) -> None:
    answer = ada.get(path)
    assert answer.status_code == 404
    assert "BEGIN" not in answer.text and "root:" not in answer.text


def test_forms_are_bounded(host: Running, ada: Browser) -> None:
    with host.waiting(id="0000b0bb") as request:
        path, csrf = f"/requests/{request.id}", ada.csrf
        assert ada.post(path, csrf=csrf, reason="x" * 20_000).status_code == 413
        many = {f"f{i}": "x" for i in range(100)}
        assert ada.post(path, csrf=csrf, decision="approve", **many).status_code == 400
        long = ada.post(path, csrf=csrf, decision="refuse", reason="x" * 201)
        assert long.status_code == 409 and "has at most 200 characters" in long.text
        lines = ada.post(path, csrf=csrf, decision="refuse", reason="a\nb")
        assert lines.status_code == 409 and "one line of plain text" in lines.text
        assert ada.post(path, csrf=csrf, decision="maybe").status_code == 400
        assert Approvals(host.store).decision(request.id) is None
    assert ada.get("/" + "x" * 20_000).status_code in (400, 404, 431)
    assert ada.client.request("PUT", "/", data={"a": "b"}).status_code == 405


# --- Live. -------------------------------------------------------------------------------------------


def test_a_job_is_followed_and_cancelled(
    host: Running, ada: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    from silent import Silent

    for name, value in (("_PAUSE", 0.0), ("_LOOK", 0.01)):
        monkeypatch.setattr(activity, name, value)
    monkeypatch.setattr(live, "_PAUSE", 0.01)
    now = Activity(host.store)

    async def work() -> None:
        with now.open(), now.job("train", Silent(), ["insurer"], ["claims-1"]) as show:
            show.say(f"insurer asks to train {HOSTILE}")
            show.progress("training claims, log loss 0.5", 3, 50)
            now.tell(losses={"train": 0.69})
            now.tell(losses={"train": 0.5})

            def cancel() -> str:
                with ada.client.stream("GET", "/events?of=live") as stream:
                    told = ""
                    for part in stream.iter_text():
                        told += part
                        if "event: part" in told and "</article>" in told:
                            break
                page = ada.get("/live").text
                for text in (told, page):
                    assert "training claims</strong>" in text and ">3 of 50<" in text
                    assert 'max="50"' in text
                    assert "<polyline" in text and "&lt;script&gt;" in text and "<script>al" not in text
                (job,) = now._jobs
                assert ada.post("/live/cancel", csrf=ada.csrf, job="00000000").status_code == 404
                assert ada.post("/live/cancel", csrf=ada.csrf, job="../../x").status_code == 404
                assert ada.post("/live/cancel", csrf=ada.csrf, job=job.id).status_code == 303
                return told

            async with now.until_cancelled():
                told = await asyncio.to_thread(cancel)
                assert "event: news\ndata: 1 job running" in told
                await asyncio.Event().wait()

    with pytest.raises(Refused) as error:
        asyncio.run(work())
    assert str(error.value) == "ada (console, token) cancelled the job"
    assert error.value.for_peer == "a person there cancelled it"
    assert not list(host.store.status().glob("cancel-*"))
    assert "Nothing of this party runs now" in ada.get("/live").text


@pytest.mark.parametrize(
    ("role", "says"),
    [
        ("guest", ""),
        ("host", "The guest alone sees the loss: it has the label."),
        ("coordinator", "Those alone who have the label see the loss: this party has no data."),
    ],
)
def test_who_has_no_loss_says_who_has_it(host: Running, role: Role, says: str) -> None:
    """And a job that waits for a person says its seconds once."""
    since = "2026-11-30T08:00:00+00:00"
    job = JobNow("train", ["insurer"], ["claims-1"], since, "waiting for a person's approval", 31, 3600)
    job.told, job.phases = "2026-11-30T08:00:31+00:00", [PhaseNow(job.step, since)]
    known = live.shown([ProcessNow(1, "vfl serve", since, "here", [job])], [], role)
    session = host.service.access.sign_in(host.token("look"), "bob")
    page = host.service.console.pages.render("live_jobs", session=session, known=known)
    assert (says in page) if says else ("see the loss" not in page and "sees the loss" not in page)
    assert 'approval</strong> <span class="far">31 s of 3,600 s</span></p>' in page
    job.task = "align"
    known = live.shown([ProcessNow(1, "vfl serve", since, "here", [job])], [], role)
    assert "the loss" not in host.service.console.pages.render("live_jobs", session=session, known=known)


def test_streams_are_bounded_and_end_with_the_session(
    host: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_PAUSE", 0.01)
    browser = host.browser("look")
    assert browser.get("/events?of=keys").status_code == 400
    csrf = browser.csrf
    with browser.client.stream("GET", "/events?of=inbox") as stream:
        parts = stream.iter_text()
        assert "0 jobs waiting" in next(parts)
        assert browser.post("/signout", csrf=csrf).status_code == 303
        assert "event: over" in "".join(parts)
    monkeypatch.setattr(live, "_STREAMS", 0)
    assert host.browser("look").get("/events?of=inbox").status_code == 503


# --- Afterwards. -------------------------------------------------------------------------------------


def test_runs_are_listed_and_compared(guest: Running, host: Running) -> None:
    browser = guest.browser("look")
    listed = browser.get("/runs").text
    assert all(f'value="{name}"' in listed for name in RUNS)
    page = browser.get(COMPARED)
    assert heading(page) == "2 runs side by side"
    for text in ("AUC, federation", "job.model", "secureboost", "<polyline", "registry: power"):
        assert text in page.text, text
    same = browser.get(f"/runs/compare?run={RUNS[0]}&run={RUNS[0]}")
    assert same.status_code == 400 and "choose 2 to 5 runs: 1 are chosen" in same.text
    of_host = host.browser("look").get(COMPARED).text
    assert "rows are held out at the guest" in of_host and "splits" in of_host
    assert "The guest alone sees the loss: it has the label." in of_host
    assert "<polyline" not in of_host and 'data-head="run">steps' not in of_host
    assert "sees the loss" not in page.text


def test_a_report_is_made_and_keeps_its_own_policy(host: Running) -> None:
    answer = host.browser("look").get(f"/runs/{RUNS[0]}/report")
    assert answer.status_code == 200 and "Report of registry" in answer.text
    policy = answer.headers["content-security-policy"]
    assert "script-src 'sha256-" in policy and "frame-ancestors 'none'" in policy
    assert 'class="sheet"' not in answer.text


def test_what_is_kept_is_listed(guest: Running) -> None:
    page = guest.browser("look").get("/kept").text
    assert RUNS[0] in page and "Alignments" in page and "There is no directory." in page


def test_the_policy_says_what_each_rule_refused(host: Running) -> None:
    RefusalCounts(host.store).count(("max_trees", "max_trees", "guests"), "insurer")
    RefusalCounts(host.store).count(("max_trees",), "insurer")
    page = host.browser("look").get("/policy").text
    row = next(part for part in page.split("<tr") if ">max_trees<" in part)
    assert re.search(r'data-head="refused"[^>]*>2<', row) and "insurer" in row
    assert "allows more" in page
    row = next(part for part in page.split("<tr") if ">max_ids_a_day<" in part)
    assert row.count(">1,000,000<") == 2
    row = next(part for part in page.split("<tr") if ">expires<" in part)
    assert row.count(">not set<") == 2 and ">none<" not in page


def test_the_ledger_is_searched_verified_and_compared(
    guest: Running, host: Running, parties: dict[str, Party], tmp_path: Path
) -> None:
    browser = guest.browser("look")
    everything = browser.get("/ledger").text
    assert "Offer" in everything and "Lines, the newest first" in everything
    chosen = browser.get("/ledger?type=Offer&peer=registry").text
    lines = re.findall(r'<td role="cell" data-head="what" class="text">(\w+)', chosen)
    assert set(lines) == {"Offer"}
    assert "There is no such line" in browser.get("/ledger?words=nothing+of+the+kind").text
    assert "There is no such line" in browser.get("/ledger?decisions=on").text
    verified = browser.get("/ledger/verify").text
    assert 'class="mark whole"' in verified
    copy = tmp_path / "copy.jsonl"
    with copy.open("wb") as file:
        export_copy(host.store.root / "ledger", "insurer", file)

    def compare(content: bytes, csrf: str) -> httpx.Response:
        files = {"copy": ("copy.jsonl", content)}
        return browser.client.post("/ledger/compare", data={"csrf": csrf}, files=files)

    assert compare(copy.read_bytes(), "x").status_code == 403
    assert "they agree" in compare(copy.read_bytes(), browser.csrf).text
    changed = copy.read_bytes().replace(b'"direction":"sent"', b'"direction":"received"', 1)
    assert "the copy is damaged" in compare(changed, browser.csrf).text
    nothing = compare(b"{}\n", browser.csrf)
    assert nothing.status_code in (200, 409) and str(guest.store.root) not in nothing.text
    assert browser.client.post("/ledger/compare", data={"csrf": browser.csrf}).status_code == 415


# --- Settings. ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"listen": "0.0.0.0:8790"}, "can be reached from other machines: name certificate and key"),
        ({"listen": "192.0.2.1:8790"}, "can be reached from other machines"),
        ({"certificate": "a.pem"}, "certificate and key go together"),
        ({"oidc": {"issuer": "http://login.example.org", "client_id": "c", "look": ["a"]}}, "https://"),
        (
            {"oidc": {"issuer": "https://login.example.org", "client_id": "c"}},
            "look and approve are empty",
        ),
    ],
)
def test_settings_that_are_not_safe_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        ConsoleSection.model_validate(settings)


def test_tokens_of_files_are_the_owners_own(tmp_path: Path) -> None:
    look, approve = tmp_path / "look", tmp_path / "approve"
    section = ConsoleSection(look_token=look, approve_token=approve)
    with pytest.raises(ConfigError, match="cannot be read: put it there"):
        access.Access(section)
    for path in (look, approve):
        path.write_text("x" * 30)
        path.chmod(0o644)
    with pytest.raises(IdentityError, match="chmod 600"):
        access.Access(section)
    for path in (look, approve):
        path.chmod(stat.S_IRUSR)
    with pytest.raises(ConfigError, match="are the same"):
        access.Access(section)
    approve.chmod(0o600)
    approve.write_text("short")
    with pytest.raises(ConfigError, match="at least 20 characters"):
        access.Access(section)
    approve.write_text("y" * 30 + "\n")
    made = access.Access(section)
    assert made.made == {}
    session = made.sign_in("y" * 30, "ada")
    assert session is not None and session.may_approve
    session = made.sign_in("x" * 30, "")
    assert session is not None and not session.may_approve


def test_plain_http_is_for_this_machine_alone(parties: dict[str, Party], host: Running) -> None:
    file = str(parties["registry"].file)
    done = command("console", file, "--listen", "0.0.0.0:8790")
    done.failed(2, "can be reached from other machines: name certificate and key")
    taken = command("console", file, "--listen", host.base.removeprefix("http://"))
    assert taken.code == 2 and "cannot listen on" in taken.err
    settings = load_party(parties["registry"].file)
    assert settings.console is not None and settings.console.is_local


def test_curves_say_what_they_are() -> None:
    svg = curves({"a": [1.0, None, 0.5], HOSTILE: [0.7]}, f"loss of {HOSTILE}", "tree")
    assert svg.count("<polyline") == 2 and "<script>" not in svg
    assert curves({"a": [None]}, "nothing", "tree") == ""
    assert REQUEST.job in ("claims",)
