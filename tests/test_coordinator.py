"""Jobs with hidden scores on the command line: a process for every party, the coordinator too."""

import contextlib
import csv
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import (
    GLM_JOB,
    HIDDEN_JOB,
    Federation,
    Party,
    ended,
    free_port,
    kill,
    make_tables,
    pinned,
    private_words,
    toml,
)
from glum import GeneralizedLinearRegressor

from vfl.jobs.alignments import load_alignment
from vfl.jobs.record import load_record
from vfl.models.halves import GuestHalf, HostHalf
from vfl.models.kinds import load_half
from vfl.party.audit import tables
from vfl.party.config import load_party
from vfl.party.ledger import FOLDER
from vfl.party.store import Store
from vfl.party.table import read_table

HOSTS = ("registry", "bureau")
SERVING = (*HOSTS, "umpire")
ALPHA = 0.01
ROWS = 200
# A coordinator that waits for six seconds only until all parties have come.
IMPATIENT = """
import functools
import vfl.jobs.coordinator as module
module.coordinate = functools.partial(module.coordinate, patience=3.0)
from vfl.cli import main
main()
"""


def job(family: str = "logistic", name: str = "hidden", **settings: Any) -> dict[str, dict[str, Any]]:
    return {
        "job": {**HIDDEN_JOB["job"], "family": family, "name": name},
        "glm": {**HIDDEN_JOB["glm"], "alpha": ALPHA, **settings},
    }


LONG = job(name="long", tolerance=1e-300, max_iterations=10_000)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Federation]:
    """Two hosts and a coordinator, all serving; the guest has aligned and knows counts, too."""
    tables = make_tables(ROWS)
    years = [f"{0.25 + (i % 7) / 8}" for i in range(ROWS)]
    counts = [str(int(claim) * (1 + i % 3)) for i, claim in enumerate(tables["insurer"]["claim"])]
    tables["insurer"] |= {"years": years, "count": counts}
    tables["new"]["years"] = years[: len(tables["new"]["plate"])]
    folder = tmp_path_factory.mktemp("coordinated")
    federation = Federation(folder, keys, coordinator=True, tables=tables)
    federation.guest.settings["data"]["ignore"] = ["years", "count"]
    with ended(federation.serve()):
        federation.guest.align().ok()
        yield federation


@pytest.fixture
def insurer(made: Federation, tmp_path: Path) -> Iterator[Party]:
    """A copy of the guest, which a test may spoil."""
    party = made.another_guest(tmp_path / "insurer")
    yield party
    party.close(private_words(made.tables))


@contextlib.contextmanager
def restarted(made: Federation, name: str, settings: dict[str, Any]) -> Iterator[None]:
    """A party serves with these settings in place of its own for a while."""
    party = made.parties[name]
    before = party.settings
    made.serving[name].stop()
    party.settings = settings
    made.serve(name)
    try:
        yield
    finally:
        made.serving[name].stop()
        party.settings = before
        made.serve(name)


def another(party: Party) -> dict[str, Any]:
    """A copy of its settings."""
    copied: dict[str, Any] = json.loads(json.dumps(party.settings))
    return copied


Ends = Callable[[str], str]


@pytest.fixture
def ends(made: Federation) -> Ends:
    """The line with which a party's job ended since the test began, or since the party was started."""
    began = {name: (serving, serving.mark()) for name, serving in made.serving.items()}

    def ending(name: str) -> str:
        serving, told = made.serving[name], ("job ended: ", "error: ")
        before, mark = began[name]
        lines: list[str] = []
        while not any(line.startswith(told) for line in lines):
            lines = serving.until(": ", mark if serving is before else 0)
        (line,) = [line for line in lines if line.startswith(told)]
        return line

    return ending


# --- What works. ----------------------------------------------------------------------------------


def prepared(made: Federation, insurer: Party, model: str) -> Iterator[tuple[Any, np.ndarray]]:
    """Each party's half of the model and its matrix of aligned rows."""
    for name in ("insurer", *HOSTS):
        party = insurer if name == "insurer" else made.parties[name]
        store = Store(party.store)
        half = load_half(store, model, GuestHalf if name == "insurer" else HostHalf)
        aligned = load_alignment(store, Store(insurer.store).latest("alignment")).rows
        settings = load_party(party.file)
        table = read_table(settings.data, role=settings.role, need_label=False)
        features = {n: table.features[n][aligned] for n in half.columns}
        yield half.model, half.model.part.design.matrix(features, len(aligned)).dense()


def training(insurer: Party) -> tuple[np.ndarray, Any]:
    """Which aligned rows train, and the guest's table."""
    settings = load_party(insurer.file)
    table = read_table(settings.data, role="guest", need_label=True)
    aligned = load_alignment(Store(insurer.store), Store(insurer.store).latest("alignment")).rows
    draw = np.random.default_rng([0, 1]).random(table.rows)[aligned]
    return draw >= 0.25, (table, aligned)


def lines_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_logistic_job(made: Federation, insurer: Party) -> None:
    """The coefficients are those of the log loss's second-order Taylor series at the mean label."""
    marks = {name: made.serving[name].mark() for name in SERVING}
    done = insurer.train(job(tolerance=1e-7)).ok()
    trained = done.json
    assert trained["converged"] and trained["deviance"] is None
    assert set(trained["metrics"]) == {"insurer alone", "federation"}
    assert trained["metrics"]["federation"]["auc"] > trained["metrics"]["insurer alone"]["auc"]
    assert set(trained["bytes_sent"]) == {*SERVING}
    assert re.search(r"converged after \d+ iterations: gradient ", done.err)
    for name in HOSTS:
        text = "\n".join(made.serving[name].until("trained", marks[name]))
        assert f"trained {trained['model']} with insurer: " in text and "relativities are in " in text
    lines = made.serving["umpire"].until("coordinated", marks["umpire"])
    assert lines[0] == "insurer asks to coordinate hidden (a test)"
    assert re.fullmatch(
        r"coordinated hidden in [\d.]+ s: converged; sent [\d,]+ bytes, received [\d,]+", lines[-1]
    )

    models, matrices = zip(*prepared(made, insurer, trained["model"]), strict=True)
    train, (table, aligned) = training(insurer)
    label = table.label[aligned][train]
    pooled = np.hstack([np.ones((len(aligned), 1)), *matrices])
    inner = pooled[train]
    # Of mean (c (score - s)^2 / 2 + (p - y) score) + alpha / 2 |beta|^2, the intercept for free.
    odds = round(4 * np.log(label.mean() / (1 - label.mean()))) / 4
    share = 1 / (1 + np.exp(-odds))
    curvature = share * (1 - share)
    penalty = np.full(inner.shape[1], ALPHA)
    penalty[0] = 0
    best = np.linalg.solve(
        curvature * inner.T @ inner / len(inner) + np.diag(penalty),
        inner.T @ (label - share + curvature * odds) / len(inner),
    )
    found = np.concatenate([[models[0].intercept], *(model.part.coefficients for model in models)])
    assert found == pytest.approx(best, abs=2e-5)

    # The record of the run: at the coordinator the job and what it cost, and no model.
    kept = Store(made.parties["umpire"].store)
    (run,) = [load_record(kept, name)[0] for name in kept.names("run")]
    assert run.job["job"]["family"] == "logistic" and set(run.account.sent) == {"insurer", *HOSTS}
    assert run.account.operations.keys() == {"decrypt"}
    assert kept.names("model") == kept.names("alignment") == []

    # Scored without the coordinator.
    mark = made.serving["umpire"].mark()
    insurer.score(model="hidden").ok()
    rows = lines_of(insurer.folder / "scores.csv")
    score = dict(zip([table.ids[0][i] for i in aligned], pooled @ found, strict=True))
    known = [row for row in rows if row["plate"] in score]
    assert len(known) > 20
    for row in known:
        assert float(row["probability"]) == pytest.approx(1 / (1 + np.exp(-score[row["plate"]])))
    assert made.serving["umpire"].mark() == mark

    for party in (insurer, *(made.parties[name] for name in HOSTS)):
        own = [cell for cell in private_words(made.tables) if cell.isalnum()]
        shown = party.run("relativities", "--model", trained["model"], "--json").ok().json
        party.processes[-1].own = own
        assert shown["relativities"]
    made.parties["umpire"].run("relativities", "--model", "hidden").failed(5, "no model hidden in ")


@pytest.mark.slow
def test_a_poisson_job_with_an_exposure(made: Federation, insurer: Party) -> None:
    """Exact, as the fit in which the guest sees scores; the job's name is as long as can be."""
    name = "p" * 64
    insurer.settings["data"] |= {"label": "count", "exposure": "years", "ignore": ["claim"]}
    done = insurer.train(job("poisson", name, tolerance=1e-6)).ok()
    trained = done.json
    assert trained["converged"]
    models, matrices = zip(*prepared(made, insurer, trained["model"]), strict=True)
    train, (table, aligned) = training(insurer)
    years = table.exposure[aligned]
    best = GeneralizedLinearRegressor(
        family="poisson", alpha=ALPHA, gradient_tol=1e-10, max_iter=1000, scale_predictors=False
    ).fit(np.hstack(matrices)[train], table.label[aligned][train], offset=np.log(years[train]))
    assert models[0].intercept == pytest.approx(best.intercept_, abs=1e-4)
    found = np.concatenate([model.part.coefficients for model in models])
    assert found == pytest.approx(best.coef_, abs=1e-4)
    made.serving["umpire"].until(f"coordinated {name} in ")
    insurer.score(model=trained["model"]).ok()
    rows = lines_of(insurer.folder / "scores.csv")
    assert list(rows[0]) == ["plate", "prediction", "expected", "unknown_to"]
    eta = models[0].intercept + sum(
        m @ np.array(model.part.coefficients) for m, model in zip(matrices, models, strict=True)
    )
    rate = dict(zip([table.ids[0][i] for i in aligned], np.exp(eta), strict=True))
    known = [row for row in rows if row["plate"] in rate]
    assert len(known) > 20
    for row in known:
        assert float(row["prediction"]) == pytest.approx(rate[row["plate"]])


def test_two_jobs_at_once(made: Federation, insurer: Party, tmp_path: Path) -> None:
    """The coordinator leads two jobs at a time, each to its own end."""
    second = made.another_guest(tmp_path / "second")
    try:
        short = {"max_iterations": 2}
        running = [
            party.start_train(job(name=name, **short))
            for party, name in ((insurer, "one"), (second, "two"))
        ]
        for one in running:
            assert one.wait().ok().json["iterations"] == 2
    finally:
        second.close(private_words(made.tables))


def test_the_coordinator_is_told_what_settings_did_to_the_model(
    made: Federation, insurer: Party
) -> None:
    """As hosts are: in words without values, in its log and its record."""
    marks = {name: made.serving[name].mark() for name in SERVING}
    trained = insurer.train(job(name="flat", alpha=1000.0)).ok().json
    assert any("differ by less than 1 %: lower alpha" in text for text in trained["warnings"])
    told = "the model's predictions hardly differ: its penalty or its learning rate flattens it"
    for name in SERVING:
        lines = made.serving[name].until(
            "coordinated flat" if name == "umpire" else "trained flat", marks[name]
        )
        assert f"note: {told}" in lines
        record, _ = load_record(Store(made.parties[name].store), trained["model"])
        assert record.warnings[:1] == [told]


# --- What goes wrong: one line on every side, an exit code, nobody hangs. -------------------------


def test_no_coordinator_there(made: Federation, insurer: Party, ends: Ends) -> None:
    insurer.settings["peers"]["umpire"]["address"] = f"127.0.0.1:{free_port()}"
    done = insurer.train(job(), wait=("--wait", "1"))
    assert "connection refused" in done.failed(7, "cannot reach umpire at 127.0.0.1:")
    said = [ends(name) for name in HOSTS]
    told = "job ended: insurer stopped the job: another party cannot be reached"
    # One that hears it later may hear first, by the coordinator, that the other one has left.
    left = [f"job ended: umpire stopped the job: {name} stopped it" for name in HOSTS]
    assert told in said and set(said) <= {told, *left}
    # It was at another address: the hosts came to it.
    assert ends("umpire").endswith(" stopped the job: its part of the job was cancelled")


def test_a_job_that_trains_nothing(made: Federation, insurer: Party, ends: Ends) -> None:
    """The coordinator is told why, as hosts are, and keeps no record of a run without a model."""
    before = Store(made.parties["umpire"].store).names("run")
    line = insurer.train(job(name="nothing", alpha=1e9)).failed(2, "nothing was trained: alpha = 1e+09")
    assert line.endswith("in [glm] leaves no coefficient: lower it")
    told = "nothing was trained: all coefficients vanish (alpha of [glm])"
    for name in SERVING:
        assert ends(name) == f"job ended: insurer stopped the job: {told}"
    assert Store(made.parties["umpire"].store).names("run") == before


def test_a_guest_without_the_coordinator(made: Federation, insurer: Party) -> None:
    marks = {name: made.serving[name].mark() for name in SERVING}
    wanted = (
        "the job's coordinator is umpire: insurer's party file needs [peers.umpire] with its address, "
        'its certificate and role = "coordinator"'
    )
    del insurer.settings["peers"]["umpire"]
    insurer.train(job()).failed(2, wanted)
    insurer.settings["peers"]["umpire"] = made.guest.settings["peers"]["umpire"]
    insurer.train(job(coordinator="registry")).failed(2, "the job's coordinator is registry: ")
    for name in SERVING:  # nobody was asked
        assert made.serving[name].mark() == marks[name]


def test_a_host_without_the_coordinator(made: Federation, insurer: Party, ends: Ends) -> None:
    settings = another(made.parties["registry"])
    del settings["peers"]["umpire"]
    with restarted(made, "registry", settings):
        insurer.settings["peers"]["registry"] = dict(made.guest.settings["peers"]["registry"])
        text = "the job's coordinator is umpire: registry's party file needs [peers.umpire] "
        insurer.train(job()).failed(9, f"registry stopped the job: {text}")
        assert ends("registry").startswith(f"error: {text}")
        assert ends("bureau") == "job ended: insurer stopped the job: registry stopped it"


def test_a_coordinator_that_does_not_pin_a_host(made: Federation, insurer: Party, ends: Ends) -> None:
    settings = another(made.parties["umpire"])
    del settings["peers"]["bureau"]
    with restarted(made, "umpire", settings):
        line = insurer.train(job()).failed(9, " stopped the job: ")
        rule = "the job is with bureau, whose certificate the coordinator does not pin"
        assert line in (  # whoever is first
            f"error: umpire stopped the job: {rule}",
            "error: bureau stopped the job: a problem with its own keys (its log has the details)",
            "error: registry stopped the job: umpire stopped it",
        )
        for name in HOSTS:
            ends(name)
        umpire = made.serving["umpire"].err
        assert rule in umpire or "refused a connection from 127.0.0.1: its certificate is not" in umpire


def test_a_host_that_the_coordinator_knows_under_another_certificate(
    made: Federation, insurer: Party, ends: Ends
) -> None:
    settings = another(made.parties["umpire"])
    settings["peers"]["bureau"] = {"certificate": "peers/new-bureau.pem"}
    with restarted(made, "umpire", settings):
        # The bureau is refused by TLS, unless what another party has signed comes first.
        rule = "insurer and umpire have pinned different certificates of bureau: compare fingerprints"
        line = insurer.train(job()).failed(9, " stopped the job: ")
        assert "bureau stopped the job: a problem with its own keys" in line or (
            rule in line or "registry stopped the job: umpire stopped it" in line
        )
        said = ends("bureau")
        assert "umpire refused this party's certificate" in said or " stopped the job: " in said
        assert " stopped the job: " in ends("registry")
        seen = made.serving["umpire"].err
        assert rule in seen or "its certificate is not pinned here" in seen


def test_a_job_of_another_coordinator(made: Federation, insurer: Party, ends: Ends) -> None:
    """The peer at the coordinator's address goes by another name in the job."""
    for party in (insurer, *(made.parties[name] for name in HOSTS)):
        assert "stranger" not in party.settings["peers"]
    address = made.guest.settings["peers"]["umpire"]["address"]
    insurer.settings["peers"]["stranger"] = {
        **pinned("stranger"),
        "address": address,
        "role": "coordinator",
    }
    # Where hosts do not know it they say so; where it is somebody else, certificates do.
    line = insurer.train(job(coordinator="stranger")).failed(9, "the job's coordinator is stranger: ")
    assert "party file needs [peers.stranger]" in line
    for name in HOSTS:
        ends(name)


def test_a_job_that_names_another_than_it_is_sent_to(
    made: Federation, insurer: Party, ends: Ends, tmp_path: Path
) -> None:
    """A guest that sends a job to a party which is not its coordinator is told so."""
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from vfl.jobs import coordinator as c\n"
        "from vfl.jobs.agreement import Agreement\n"
        "from vfl.jobs.connect import Site\n"
        "from vfl.jobs.offer import Offer\n"
        "from vfl.party.config import load_job, load_party\n"
        "class Silent:\n"
        "    say = progress = lambda *news: None\n"
        "async def main():\n"
        "    site = Site.open(load_party('insurer.toml'))\n"
        "    job = load_job('job.toml')\n"
        "    offer = Offer('train', bytes(32), ['registry'], [], job=job.canonical)\n"
        "    agreement = Agreement.of(site, offer.terms('insurer'), [b'', b''])\n"
        "    async with c.coordinator_of(site, agreement, job.canonical, 'umpire', 5, Silent()):\n"
        "        pass\n"
        "try:\n"
        "    asyncio.run(main())\n"
        "except c.VflError as error:\n"
        "    print(f'error: {error}', file=sys.stderr)\n"
        "    sys.exit(error.exit_code)\n"
    )
    (insurer.folder / "job.toml").write_text(toml(job(coordinator="stranger")))
    rule = "the job names another coordinator, or none"
    running = insurer.start("train", program=script)
    running.wait().failed(9, f"umpire stopped the job: {rule}")
    assert ends("umpire") == f"job ended: {rule}"


def test_a_host_that_does_not_reach_the_coordinator(
    made: Federation, insurer: Party, ends: Ends
) -> None:
    """The coordinator's patience ends; all are told who did not come."""
    umpire = made.parties["umpire"]
    settings = another(made.parties["bureau"])
    settings["peers"]["umpire"]["address"] = f"127.0.0.1:{free_port()}"
    with restarted(made, "bureau", settings):
        insurer.settings["peers"]["bureau"] = dict(made.guest.settings["peers"]["bureau"])
        made.serving["umpire"].stop()
        made.serving["umpire"] = umpire.start("serve", program=IMPATIENT)
        made.serving["umpire"].until("listening on")
        text = "bureau did not join the job within 3 s"
        line = insurer.train(job()).failed(9, " stopped the job: ")
        assert line in (
            f"error: umpire stopped the job: {text}",
            "error: registry stopped the job: umpire stopped it",
        )
        assert ends("umpire") == f"job ended: {text}"
        assert ends("registry") in (
            f"job ended: umpire stopped the job: {text}",
            "job ended: insurer stopped the job: umpire stopped it",
        )
        assert ends("bureau").startswith("job ended: insurer stopped the job: ")
        made.serving["umpire"].stop()
        made.serve("umpire")


def test_a_host_that_dies_before_all_have_come(made: Federation, insurer: Party, ends: Ends) -> None:
    """The guest sees it, long before the coordinator's patience ends."""
    settings = another(made.parties["bureau"])
    settings["peers"]["umpire"]["address"] = f"127.0.0.1:{free_port()}"
    with restarted(made, "bureau", settings):
        insurer.settings["peers"]["bureau"] = dict(made.guest.settings["peers"]["bureau"])
        mark = made.serving["registry"].mark()
        running = insurer.start_train(job())
        made.serving["registry"].until("asks to train", mark)
        made.serving["bureau"].until("asks to train")
        kill(made.serving["bureau"])
        running.wait().failed(8, "bureau")
        ends("registry")  # the umpire may not have been reached yet


def opened(made: Federation) -> int:
    """How many gradients the coordinator has opened so far."""
    own = made.parties["umpire"].store / FOLDER
    if not own.exists():
        return 0  # no job so far
    return sum(1 for _ in tables.rows(own, tables.MessageFilter(type="OpenedGradient")))


def killed(made: Federation, insurer: Party, name: str) -> str:
    """The guest's last line when a party dies in the middle of a fit; the party is back afterwards."""
    before = opened(made)
    running = insurer.start_train(LONG)
    while opened(made) == before:
        assert running.process.poll() is None, running.err
        time.sleep(0.05)
    kill(made.serving[name])
    done = running.wait()
    assert done.code in (8, 9)
    return done.failed(done.code)


@pytest.mark.parametrize("name", ["umpire", "registry"])
def test_a_party_that_dies_during_a_fit(made: Federation, insurer: Party, ends: Ends, name: str) -> None:
    line = killed(made, insurer, name)
    assert f"the connection to {name} broke" in line or line.endswith(
        " stopped the job: the connection to another party broke"
    )
    for other in SERVING:
        if other != name:
            told = ends(other)
            assert "the connection to" in told or told.endswith("stopped it")
    made.serve(name)
    insurer.settings["peers"] = another(made.guest)["peers"]
    assert insurer.train(job(name="after", max_iterations=1)).ok().json["iterations"] == 1


def test_a_coordinator_that_is_stopped_during_a_fit(
    made: Federation, insurer: Party, ends: Ends
) -> None:
    mark = made.serving["umpire"].mark()
    running = insurer.start_train(LONG)
    made.serving["umpire"].until("asks to coordinate", mark)
    umpire = made.serving["umpire"]
    umpire.process.terminate()
    running.wait().failed(9, " stopped the job: ")
    assert umpire.wait().code == 0
    assert umpire.err.splitlines()[-1] == "umpire stops serving"
    for name in HOSTS:
        ends(name)
    made.serve("umpire")


# --- The files. -----------------------------------------------------------------------------------


def test_what_a_coordinators_file_must_be(made: Federation, tmp_path: Path) -> None:
    umpire = made.parties["umpire"]

    def refused(change: Callable[[dict[str, Any]], object], text: str) -> None:
        settings = another(umpire)
        change(settings)
        Party("umpire", tmp_path, settings).run("serve").failed(2, "umpire.toml: " + text)

    data = {"path": "table.csv", "id": "plate"}
    refused(lambda s: s.update(data=data), "[data] is for parties with a table: a coordinator has none")
    refused(lambda s: s["party"].pop("listen"), "[party] listen is missing: a coordinator is dialled")
    refused(lambda s: s["peers"].pop("bureau") and s["peers"].pop("registry"), "[peers] must have a")


def test_jobs_that_cannot_have_hidden_scores(made: Federation, insurer: Party) -> None:
    wanted = job()
    del wanted["glm"]["coordinator"]
    insurer.train(wanted).failed(2, 'scores = "hidden" and coordinator go together')
    insurer.train({**GLM_JOB, "glm": {"coordinator": "umpire"}}).failed(2, "go together")
    insurer.train(job("gamma")).failed(2, 'scores = "hidden" is for family = "logistic" and "poisson"')
    insurer.train(job(encryption="ou")).failed(2, '[glm] encryption must be "paillier"')


def test_commands_of_a_coordinator(made: Federation, tmp_path: Path) -> None:
    umpire = made.parties["umpire"]
    umpire.run("train", "job.toml").failed(2, "job.toml")
    umpire.run("align").failed(2, "the party file of a coordinator, the command takes a guest's")
    # It listens already.
    done = umpire.run("doctor")
    assert done.code == 1
    assert "FAIL  cannot listen on 127.0.0.1:" in done.out and "does `vfl serve` run" in done.out
    settings = another(umpire)
    settings["party"]["listen"] = "127.0.0.1:0"
    before, umpire.settings = umpire.settings, settings
    try:
        done = umpire.run("doctor").ok()
    finally:
        umpire.settings = before
        umpire.write()
    first, *others = done.out.splitlines()
    assert first.startswith("note  serve: umpire.toml was changed after ")
    assert [line[:4] for line in others] == ["ok  "] * 6  # the store, keys, four more
    assert "ok    certificate of bureau: fingerprint " in done.out


def test_doctor_reaches_the_coordinator(made: Federation, insurer: Party) -> None:
    done = insurer.run("doctor").ok()
    address = insurer.settings["peers"]["umpire"]["address"]
    assert f"ok    umpire at {address}: vfl 0.1.0, coordinator" in done.out
    insurer.settings["peers"]["umpire"].pop("role")
    done = insurer.run("doctor")
    assert done.code == 1
    assert "coordinator, where [peers.umpire] lacks that role" in done.out
