"""`vfl online` over HTTP, in one process: who may ask, what is answered, what stands in for a host."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from quotes import batch, client, made, named, online, some_rows

from vfl.errors import ConfigError, DataError, ModelError, PeerLost, PeerUnreachable, Refused
from vfl.jobs.host_lookups import LOST
from vfl.models.kinds import save_half
from vfl.online import lookups
from vfl.online.metrics import FIGURES
from vfl.online.service import Online
from vfl.party.tokens import add_token

GOOD = {"plate": "AB1", "age": 40, "born": "1.2.1980", "area": "urban"}
NOBODY = {**GOOD, "plate": "nobody has this"}
SCORE = "/v1/score"

Ask = Callable[[httpx.AsyncClient], Awaitable[Any]]


def run(service: Online, ask: Ask, **headers: str) -> Any:
    """Begin a service, ask it, and end it."""

    async def whole() -> Any:
        await service.begin()
        async with client(service, **headers) as asking:
            try:
                return await ask(asking)
            finally:
                await service.catalogue.close()

    return asyncio.run(whole())


def post(body: Any, **headers: str) -> Ask:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda asking: asking.post(SCORE, content=content, headers=headers)


def test_an_answer_says_what_it_is_made_of(tmp_path: Path) -> None:
    model = made()
    service, _, quiet = online(tmp_path, [model])
    rows = some_rows(np.random.default_rng(1), 7)
    answer = run(service, post({"rows": rows}))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["cache-control"] == "no-store"
    said = answer.json()
    assert (said["model"], said["unit"], said["away"]) == (model.half.name, "probability", [])
    host = said["hosts"]["registry"]
    assert (host["state"], host["directory"]) == ("here", "1")
    assert host["made"] == "2026-11-01T12:00:00+00:00" and host["age_seconds"] > 0
    expected = batch(model, rows, tmp_path)
    assert [row["prediction"] for row in said["results"]] == expected["probability"]
    assert [" ".join(row["unknown_to"]) for row in said["results"]] == expected["unknown_to"]
    line = quiet.lines[-1]
    assert line.startswith("POST /v1/score 200 ") and line.endswith(" ms 7 rows anybody")


def test_an_explained_answer_adds_up(tmp_path: Path) -> None:
    service, *_ = online(tmp_path, [made("glm", "poisson")])
    row = {**GOOD, "margin": 0.25, "years": 0.5}
    (result,) = run(service, post({"rows": [row], "explain": True, "top": 1})).json()["results"]
    total = result["base"] + sum(result["contributions"].values())
    assert total == pytest.approx(result["score"], rel=1e-12)
    assert result["prediction"] == pytest.approx(np.exp(result["score"]))
    assert result["expected"] == pytest.approx(0.5 * result["prediction"])
    assert result["contributions"]["offset"] == pytest.approx(0.25)
    assert {"age", "registry:power", "bureau"} <= result["contributions"].keys()
    assert result["reasons"].count(";") == 0 and "%" in result["reasons"]


def test_parts_that_are_none_are_answered_as_a_hosts_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that seals parts which no scorer takes learns nothing of who reads them: it is asked as
    ever."""
    model = made("glm", "poisson")
    service, source, quiet = online(tmp_path, [model])
    directory = source.of[model.half.name]["registry"]
    real, body = directory.look_up, {"rows": [{**GOOD, "margin": 0.25, "years": 0.5}]}

    async def broken(ids: Any) -> Any:
        found = await real(ids)
        found.parts[:] = [None if part is None else b"\xff" * len(part) for part in found.parts]
        return found

    async def ask(asking: httpx.AsyncClient) -> list[Any]:
        monkeypatch.setattr(directory, "look_up", broken)
        lost = await asking.post(SCORE, json=body)
        monkeypatch.setattr(directory, "look_up", real)
        return [lost, await asking.post(SCORE, json=body)]

    lost, after = run(service, ask)
    assert lost.status_code == 503
    assert lost.json()["error"].startswith("registry broke the protocol: its directory holds parts")
    assert (after.status_code, after.json()["away"]) == (200, [])
    assert not any("away" in line for line in quiet.lines)


# What stands in for a host.


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (PeerUnreachable("registry is away: it cannot be reached"), "registry is away: it cannot be"),
        (PeerLost("the connection broke"), "broke"),
        (Refused("registry allows no more lookups today"), "no more lookups"),
        (RuntimeError("secret-7"), "a fault of vfl itself"),
    ],
)
def test_a_host_that_is_away_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception, said: str
) -> None:
    monkeypatch.setattr(lookups, "_REFUSED", 0.1)
    monkeypatch.setattr(lookups, "_LOOK", 0.1)
    model = made()
    service, source, quiet = online(tmp_path, [model])
    directory = source.of[model.half.name]["registry"]

    async def ask(asking: httpx.AsyncClient) -> list[Any]:
        body = {"rows": [GOOD]}
        before = await asking.post(SCORE, json=body)
        directory.trouble = trouble
        lost = await asking.post(SCORE, json=body)
        count = len(directory.asked)
        at_once = await asking.post(SCORE, json=body)  # nobody waits for a host that is away
        assert len(directory.asked) == count
        ready = await asking.get("/readyz")
        directory.trouble = None
        while (after := await asking.post(SCORE, json=body)).json()["away"]:
            await asyncio.sleep(0.01)
        assert "registry is back" in quiet.lines
        return [before, lost, at_once, ready, after]

    before, lost, at_once, ready, after = run(service, ask)
    assert before.json()["results"] == after.json()["results"] != lost.json()["results"]
    for answer in (lost, at_once):
        assert answer.status_code == 200
        assert answer.json()["away"] == ["registry"]
        assert answer.json()["hosts"]["registry"]["state"] == "away"
        assert answer.json()["results"][0]["unknown_to"] == ["registry"]
    assert ready.json()["away"] == ["registry"] and ready.json()["ready"] is True
    assert ready.json()["models"][model.half.name] == {"registry": "away", "bureau": "here"}
    assert any(said in line for line in quiet.lines)
    assert not any("away: registry is away" in line for line in quiet.lines)
    assert not any("secret-7" in line for line in quiet.lines)
    # Rows are scored as those that the host does not know.
    missing = run(online(tmp_path / "b", [model])[0], post({"rows": [NOBODY]})).json()["results"][0]
    assert missing["unknown_to"] == ["registry", "bureau"]


def test_an_owner_may_have_errors_in_place_of_missing_values(tmp_path: Path) -> None:
    model = made()
    rules = {"max_age": 3650.0, "deadline": 20_000}
    strict = {"registry": {**rules, "away": "error", "unknown": "error"}, "bureau": rules}
    service, source, _ = online(tmp_path, [model], hosts=strict)

    async def ask(asking: httpx.AsyncClient) -> list[Any]:
        first = await asking.post(SCORE, json={"rows": [GOOD, NOBODY]})
        source.of[model.half.name]["registry"].trouble = PeerLost("the connection broke")
        return [first, await asking.post(SCORE, json={"rows": [GOOD]}), await asking.get("/readyz")]

    first, away, ready = run(service, ask)
    good, nobody = first.json()["results"]
    assert good["prediction"] is not None and "error" not in good
    assert nobody["prediction"] is None and nobody["error"] == "registry does not know the row"
    assert away.status_code == 503 and "registry is away" in away.json()["error"]
    assert ready.status_code == 503 and ready.json()["ready"] is False


def test_directories_that_are_stale(tmp_path: Path) -> None:
    model = made()
    for stale, status in (("error", 503), ("use", 200)):
        rules = {"max_age": 2.0, "stale": stale, "deadline": 20_000}
        service, source, _ = online(
            tmp_path / stale, [model], hosts={"registry": rules, "bureau": {"max_age": 3650}}
        )
        source.of[model.half.name]["registry"].made = datetime.now(UTC) - timedelta(days=3)
        answer = run(service, post({"rows": [GOOD]}))
        assert answer.status_code == status
        if stale == "error":
            assert answer.json()["error"] == "the directory of registry is stale: it is 3 days old"
        else:
            host = answer.json()["hosts"]["registry"]
            assert host["state"] == "stale" and 259_000 < host["age_seconds"] < 260_000


def test_a_host_that_is_too_late_holds_nobody_up(tmp_path: Path) -> None:
    model = made()
    hosts = {"registry": {"max_age": 3650, "deadline": 30}, "bureau": {"max_age": 3650}}
    service, source, quiet = online(tmp_path, [model], hosts=hosts)
    directory = source.of[model.half.name]["registry"]

    async def ask(asking: httpx.AsyncClient) -> list[Any]:
        directory.gate = asyncio.Event()
        late = await asking.post(SCORE, json={"rows": [GOOD]})
        directory.gate.set()
        while "registry is back" not in quiet.lines:
            await asyncio.sleep(0.01)
        return [late, await asking.post(SCORE, json={"rows": [GOOD]})]

    late, after = run(service, ask)
    assert late.json()["away"] == ["registry"] and after.json()["away"] == []
    assert "registry is away: no answer within 30 ms" in quiet.lines


def test_nobody_waits_for_a_session_that_broke(tmp_path: Path) -> None:
    model = made()
    service, source, quiet = online(tmp_path, [model])
    directory = source.of[model.half.name]["registry"]

    async def ask(asking: httpx.AsyncClient) -> Any:
        directory.gate = gate = asyncio.Event()
        directory.asked.clear()
        under_way = asyncio.create_task(asking.post(SCORE, json={"rows": [GOOD]}))
        while not directory.asked:
            await asyncio.sleep(0)
        directory.trouble = PeerLost("the connection broke")  # long before the deadline of 20 s
        answer = await under_way
        directory.trouble, directory.gate = None, None
        gate.set()
        while (after := await asking.post(SCORE, json={"rows": [GOOD]})).json()["away"]:
            await asyncio.sleep(0.01)
        return answer, after

    answer, after = run(service, ask)
    assert (answer.json()["away"], after.json()["away"]) == (["registry"], [])
    assert f"registry is away: {LOST}" in quiet.lines


def test_requests_of_a_moment_share_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "_MOST", 1024)
    model = made()
    service, source, _ = online(tmp_path, [model], window=50.0)
    directory = source.of[model.half.name]["registry"]

    async def ask(asking: httpx.AsyncClient) -> list[Any]:
        directory.asked.clear()
        rows = [[{**GOOD, "plate": f"AB{i % 5}"}] for i in range(20)]
        answers = await asyncio.gather(*(asking.post(SCORE, json={"rows": one}) for one in rows))
        shared = list(directory.asked)
        alone = [await asking.post(SCORE, json={"rows": one}) for one in rows[:5]]
        assert [a.json()["results"] for a in answers[:5]] == [a.json()["results"] for a in alone]
        directory.asked.clear()
        many = [{**GOOD, "plate": f"AB{i}"} for i in range(2500)]
        whole = await asking.post(SCORE, json={"rows": many})
        assert len(whole.json()["results"]) == 2500
        return [shared, directory.asked]

    shared, large = run(service, ask)
    assert shared == [5]  # each row once
    assert large == [1024, 1024, 452]


# Who may ask.


def test_tokens_scopes_and_rates(tmp_path: Path) -> None:
    service, *_ = online(tmp_path, [made()], without_tokens=False)
    path = tmp_path / "online-tokens.toml"
    quotes = add_token(path, "quotes", ["score"], 2)
    monitor = add_token(path, "monitor", ["metrics", "models"])
    explain = add_token(path, "explainer", ["score", "explain"])

    async def ask(asking: httpx.AsyncClient) -> None:
        async def status(path: str, token: str | None, **body: Any) -> int:
            headers = {} if token is None else {"Authorization": f"Bearer {token}".encode("latin-1")}
            if path == SCORE:
                answer = await asking.post(path, json={"rows": [GOOD], **body}, headers=headers)
            else:
                answer = await asking.get(path, headers=headers)
            assert answer.status_code == 200 or answer.json()["error"]
            if answer.status_code == 401:
                assert answer.headers["www-authenticate"] == "Bearer"
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
            return answer.status_code

        for path in (SCORE, "/v1/models", "/metrics"):
            for token in (None, "vfl_wrong", quotes[:-1], "ü"):
                assert await status(path, token) == 401
        for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
            assert (await asking.get(path)).status_code == 200
        assert await status(SCORE, quotes) == 200
        assert await status(SCORE, quotes, explain=True) == 403
        assert await status(SCORE, quotes) == 429  # two at once, then two a second
        assert await status(SCORE, explain, explain=True) == 200
        assert [await status(path, explain) for path in ("/v1/models", "/metrics")] == [403, 403]
        assert [await status(path, monitor) for path in ("/v1/models", "/metrics")] == [200, 200]
        assert await status(SCORE, monitor) == 403
        # A token that is taken back, and another one, as soon as the file is read.
        file = tmp_path / "online-tokens.toml"
        file.unlink()
        new = add_token(file, "quotes", ["score"])
        await service.refresh()
        assert [await status(SCORE, token) for token in (quotes, new)] == [401, 200]
        assert await status(SCORE, explain) == 401
        file.write_text("[quotes")  # a file that is being edited takes nothing away
        await service.refresh()
        assert await status(SCORE, new) == 200

    run(service, ask)


def test_a_file_of_tokens_that_is_read_only_stays(tmp_path: Path) -> None:
    path = tmp_path / "online-tokens.toml"
    add_token(path, "quotes", ["score"])
    path.chmod(0o400)
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"read-only \(mode 400\); run chmod u\+w"):
        add_token(path, "more", ["score"])
    assert path.read_bytes() == before
    path.chmod(0o640)
    add_token(path, "more", ["score"])
    assert path.stat().st_mode & 0o777 == 0o640 and b"[more]" in path.read_bytes()


def test_a_service_whose_tokens_explain_nothing_says_so(tmp_path: Path) -> None:
    service, *_ = online(tmp_path, [made()], without_tokens=False)
    add_token(tmp_path / "online-tokens.toml", "quotes", ["models"])
    run(service, lambda asking: asyncio.sleep(0))
    (model,) = service.catalogue.models.values()
    assert not model.explains and "scope explain" in model.not_explained
    missing, *_ = online(tmp_path / "b", [made()], without_tokens=False)
    with pytest.raises(ConfigError, match="no file of tokens"):
        run(missing, lambda asking: asyncio.sleep(0))


# What is asked, and what is told.


def test_models_columns_health_and_figures(tmp_path: Path) -> None:
    trees, glm = made(), made("glm", "poisson")
    service, *_ = online(tmp_path, [trees, glm])

    async def ask(asking: httpx.AsyncClient) -> list[Any]:
        await asking.post(SCORE, json={"model": trees.half.name, "rows": [GOOD, NOBODY]})
        await asking.get("/nothing/secret-7")
        assert [(await asking.head(path)).status_code for path in ("/healthz", "/readyz")] == [200, 200]
        return [await asking.get(path) for path in ("/v1/models", "/healthz", "/readyz", "/metrics")]

    models, health, ready, metrics = run(service, ask)
    by_name = {model["model"]: model for model in models.json()["models"]}
    assert by_name.keys() == {trees.half.name, glm.half.name}
    kinds = {column["name"]: column["kind"] for column in by_name[glm.half.name]["columns"]}
    assert kinds == {
        "plate": "id",
        "age": "number",
        "born": "date",
        "area": "category",
        "years": "exposure",
        "margin": "offset",
    }
    needed = {c["name"] for c in by_name[glm.half.name]["columns"] if c["needed"]}
    assert needed == {"plate", "age", "born", "area", "margin"}
    assert by_name[glm.half.name]["unit"] == "per unit of exposure"
    assert (health.status_code, health.json()["status"], ready.json()["ready"]) == (200, "ok", True)
    text = metrics.text
    named = set(re.findall(r"^# HELP (\w+) ", text, re.MULTILINE))
    assert {name for name in named if not name.endswith("_created")} == FIGURES.keys()
    assert f'vfl_online_rows_total{{model="{trees.half.name}",outcome="scored"}} 2.0' in text
    assert f'vfl_online_unknown_rows_total{{host="registry",model="{trees.half.name}"}} 1.0' in text
    assert f'vfl_online_host_here{{host="bureau",model="{glm.half.name}"}} 1.0' in text
    assert 'vfl_online_requests_total{path="/v1/score",status="200"} 1.0' in text
    assert 'vfl_online_requests_total{path="other",status="404"} 1.0' in text
    assert "vfl_online_directory_age_seconds" in text and "vfl_online_seconds_bucket" in text
    assert "AB1" not in text and "secret-7" not in text


def test_models_are_found_by_name_or_by_job(tmp_path: Path) -> None:
    model = made()
    old = named(model, "claims-20261101-120000-aaaa")
    new = named(model, "claims-20261102-120000-aaaa")
    other = named(model, "other-20261102-120000-aaaa")
    service, *_ = online(tmp_path, [old, new, other])

    async def ask(asking: httpx.AsyncClient) -> list[Any]:
        names = (None, "claims", new.half.name, old.half.name, "other", "secret-7")
        bodies = [{"rows": [GOOD], **({"model": name} if name else {})} for name in names]
        return [await asking.post(SCORE, json=body) for body in bodies]

    answers = run(service, ask)
    assert [answer.status_code for answer in answers] == [404, 200, 200, 404, 200, 404]
    assert answers[1].json()["model"] == new.half.name
    listed, *_ = online(tmp_path, [old, new], models=("claims-20261101-120000-aaaa",))
    assert run(listed, post({"rows": [GOOD]})).json()["model"] == old.half.name
    absent, *_ = online(tmp_path, [old], models=("nothing",))
    with pytest.raises(ModelError, match="no model nothing"):
        run(absent, lambda asking: asyncio.sleep(0))
    empty, *_ = online(tmp_path / "empty", [])
    with pytest.raises(ModelError, match="there is no model to serve"):
        run(empty, lambda asking: asyncio.sleep(0))


def test_models_and_directories_change_without_a_request_that_fails(tmp_path: Path) -> None:
    model = made()
    old, new = named(model, "claims-20261101-120000-aaaa"), named(model, "claims-20261102-120000-aaaa")
    service, source, quiet = online(tmp_path, [old], drain=0)
    first = source.of[old.half.name]["registry"]

    async def ask(asking: httpx.AsyncClient) -> None:
        first.gate = gate = asyncio.Event()
        first.asked.clear()
        under_way = asyncio.create_task(asking.post(SCORE, json={"rows": [GOOD]}))
        while not first.asked:
            await asyncio.sleep(0)
        first.version, first.made, first.gate = "2", datetime(2026, 11, 20, tzinfo=UTC), None
        answer = await asking.post(SCORE, json={"rows": [GOOD]})
        assert answer.json()["hosts"]["registry"]["directory"] == "2"
        assert answer.json()["hosts"]["bureau"]["directory"] == "1"
        gate.set()
        before = (await under_way).json()
        assert before["hosts"]["registry"]["directory"] == "1" and before["away"] == []
        assert before["results"] == answer.json()["results"]
        # A newer model takes the place of the one before, once its directories are there.
        save_half(service.sources.store, new.half)
        await service.refresh()
        assert list(service.catalogue.models) == [old.half.name]
        assert any("claims-20261102" in line and "is not served" in line for line in quiet.lines)
        said = len(quiet.lines)
        await service.refresh()
        assert len(quiet.lines) == said  # once
        source.of[new.half.name] = dict(source.of[old.half.name])
        await service.refresh()
        assert list(service.catalogue.models) == [new.half.name]
        assert (await asking.post(SCORE, json={"model": "claims", "rows": [GOOD]})).status_code == 200
        while {one.host for one in source.parted} != {"registry", "bureau"}:
            await asyncio.sleep(0)

    run(service, ask)


def test_a_service_begins_before_its_hosts_have_directories(tmp_path: Path) -> None:
    model = made()
    service, source, quiet = online(tmp_path, [model])
    there = source.of.pop(model.half.name)

    async def ask(asking: httpx.AsyncClient) -> None:
        early = await asking.post(SCORE, json={"rows": [GOOD]})
        assert early.status_code == 503 and "no model is ready yet" in early.json()["error"]
        ready = await asking.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        source.of[model.half.name] = there
        await service.refresh()
        assert (await asking.post(SCORE, json={"rows": [GOOD]})).status_code == 200
        assert (await asking.get("/readyz")).status_code == 200

    run(service, ask)
    assert any("there is no directory of registry here yet" in line for line in quiet.lines)


def test_a_directory_of_another_layout_is_scored_as_it_is(tmp_path: Path) -> None:
    """A host may show its columns from one directory to the next."""
    model = made("glm", "logistic")
    service, source, _ = online(tmp_path, [model])
    bureau = source.of[model.half.name]["bureau"]
    shown = model.directories(shows=("registry", "bureau"))["bureau"]

    async def ask(asking: httpx.AsyncClient) -> list[Any]:
        body = {"rows": [GOOD, NOBODY], "explain": True}
        before = await asking.post(SCORE, json=body)
        bureau.version, bureau.layout, bureau.parts = "2", shown.layout, shown.parts
        return [before.json()["results"], (await asking.post(SCORE, json=body)).json()["results"]]

    before, after = run(service, ask)
    for one, other in zip(before, after, strict=True):
        assert one["prediction"] == other["prediction"]
        assert one["contributions"]["bureau"] == other["contributions"]["bureau:points"]


def test_a_directory_that_changes_while_a_request_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "_MOST", 1024)
    model = made("glm", "logistic")
    service, source, _ = online(tmp_path, [model])
    bureau = source.of[model.half.name]["bureau"]
    shown = model.directories(shows=("registry", "bureau"))["bureau"]
    rows = [{**GOOD, "plate": f"AB{i}"} for i in range(1500)]

    async def ask(asking: httpx.AsyncClient) -> list[Any]:
        before = await asking.post(SCORE, json={"rows": rows})
        look_up = bureau.look_up

        async def changing(ids: Any) -> Any:
            found = await look_up(ids)
            bureau.version, bureau.layout, bureau.parts = "2", shown.layout, shown.parts
            return found

        bureau.look_up = changing  # type: ignore[method-assign]
        return [before.json(), (await asking.post(SCORE, json={"rows": rows})).json()]

    before, after = run(service, ask)
    assert before["results"] == after["results"] and after["hosts"]["bureau"]["directory"] == "2"


# What no client should send.


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "not valid JSON"),
        (b"{", 400, "not valid JSON"),
        (b"\xff\xfe{\x00}\x00", 400, "not UTF-8"),
        (json.dumps({"rows": [GOOD]}).encode("utf-16"), 400, "not UTF-8"),
        (b'{"rows": [{"age": NaN}]}', 400, "NaN"),
        (b'{"rows": [{"age": -Infinity}]}', 400, "-Infinity"),
        (b"[" * 100_000, 400, "not valid JSON"),
        (b'{"rows": [' + b'{"a":' * 50_000, 400, "not valid JSON"),
        (b'{"rows": [{"age": 1' + b"0" * 5000 + b"}]}", 422, "cells cannot be used"),
        (b'{"rows": [{}], "top": 1' + b"0" * 5000 + b"}", 422, "top must be"),
        (b'{"rows": [], "rows": [1]}', 422, "key 'rows' is in the body more than once"),
        (b'{"rows": [{"age": 1, "age": 2}]}', 422, "cells cannot be used"),
        (b"[]", 422, "must be an object"),
        (b"{}", 422, "rows must be a list"),
        (b'{"rows": []}', 422, "rows must be a list"),
        (b'{"rows": {}}', 422, "rows must be a list"),
        (b'{"rows": [7, {}, []]}', 422, "2 rows and 3 cells cannot be used"),
        (b'{"rows": [{}], "extra": 1}', 422, "key 'extra' is unknown"),
        (
            b'{"a": 1, "b": 2, "rows": 7, "top": 0}',
            422,
            "unknown: there are model, rows, explain, top; top",
        ),
        (b'{"a": 1, "b": 2, "rows": 7, "top": 0}', 422, "; rows must be a list"),
        (b'{"rows": [{}], "model": 7}', 422, "model must be"),
        (b'{"rows": [{}], "explain": "yes"}', 422, "explain must be"),
        (b'{"rows": [{}], "top": 0}', 422, "top must be"),
        (b'{"rows": [{}], "top": true}', 422, "top must be"),
        (b'{"rows": [{}]}', 422, "cannot be used"),
        (b'{"rows": [' + b",".join([b"{}"] * 101) + b"]}", 422, "101 rows are too many"),
        (b'{"rows": [' + b",".join([b"[]"] * 200_000) + b"]}", 422, "too many lists or objects"),
        (b'{"rows": "' + b"x" * 1_000_001 + b'"}', 413, "too large"),
    ],
)
def test_bodies_that_are_no_requests(tmp_path: Path, body: bytes, status: int, said: str) -> None:
    service, *_ = online(tmp_path, [made()], max_rows=100, max_body=1)
    answer = run(service, post(body))
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert said in answer.json()["error"]


def test_names_that_a_client_makes_up_are_shown_short_and_plain(tmp_path: Path) -> None:
    service, _, quiet = online(tmp_path, [made()])
    answer = run(service, post({"rows": [{**GOOD, "\x1b[2J" + "n" * 5000: 1}]}))
    (problem,) = answer.json()["problems"]
    assert answer.status_code == 422 and len(problem["column"]) < 120 and "\x1b" not in problem["column"]
    assert not any("nnn" in line for line in quiet.lines)


def test_other_content_other_paths_other_methods(tmp_path: Path) -> None:
    service, *_ = online(tmp_path, [made()])

    async def ask(asking: httpx.AsyncClient) -> list[int]:
        good = json.dumps({"rows": [GOOD]}).encode()
        answers = [
            await asking.post(SCORE, content=good, headers={"Content-Type": "text/csv"}),
            await asking.post(SCORE, content=good, headers={"Content-Encoding": "gzip"}),
            await asking.post(SCORE, content=good, headers={"Content-Length": "-5"}),
            await asking.post(SCORE, content=good, headers={"Content-Length": "9" * 5000}),
            await asking.get(SCORE),
            await asking.post("/healthz"),
            await asking.get("/v1/score/"),
            await asking.get("/%00/../etc"),
        ]
        assert all(answer.json()["error"] for answer in answers)
        assert answers[4].json()["error"] == "this address takes another method: /docs says which"
        return [answer.status_code for answer in answers]

    assert run(service, ask) == [415, 415, 413, 413, 405, 405, 404, 404]


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8080", 200),
        ("http://127.0.0.1:8080", 200),
        ("http://[::1]:8080", 200),
        ("https://quotes.example.org", 403),
        ("http://127.0.0.1.example.org", 403),
        ("http://127.0.0.1@example.org", 403),
        ("http://[x", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_a_page_of_another_site_asks_no_service_without_tokens(
    tmp_path: Path, origin: str, status: int
) -> None:
    """Whatever name leads to this machine, a browser says whose page it shows."""
    service, *_ = online(tmp_path, [made()])

    async def ask(asking: httpx.AsyncClient) -> int:
        body = json.dumps({"rows": [GOOD]})
        return (await asking.post(SCORE, content=body, headers={"Origin": origin})).status_code

    assert run(service, ask) == status


def test_a_fault_of_the_service_is_one_line_without_a_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, _, quiet = online(tmp_path, [made()])

    async def ask(asking: httpx.AsyncClient) -> Any:
        (model,) = service.catalogue.models.values()
        monkeypatch.setattr(model, "score", lambda rows, asked: 1 / 0)
        return await asking.post(SCORE, json={"rows": [GOOD]})

    answer = run(service, ask)
    assert answer.status_code == 500 and "its log has the details" in answer.json()["error"]
    assert quiet.lines[-2].startswith("a fault of vfl itself, please report it: ZeroDivisionError at")
