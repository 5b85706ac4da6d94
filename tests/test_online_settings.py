"""[online] of the party file, and the file of tokens."""

import asyncio
import csv
import re
import shlex
import shutil
import subprocess
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import commands
import pytest

from vfl.errors import ConfigError, Refused
from vfl.jobs.check_result import CheckResult
from vfl.jobs.doctor import examine
from vfl.online.body import parse_score
from vfl.party import identity
from vfl.party.config import Party, load_party
from vfl.party.online_section import OnlineHostSection, OnlineSection
from vfl.party.service_certificate import ServiceCertificate
from vfl.party.tokens import add_token, load_tokens

GUEST = """
[party]
name = "insurer"
role = "guest"
identity = "keys/insurer"
[data]
path = "policies.csv"
id = "plate"
[peers.registry]
address = "127.0.0.1:7443"
certificate = "registry.pem"
"""
LOCAL = "[online]\nplain_http = true\n"


def online(folder: Path, text: str) -> OnlineSection:
    file = folder / "insurer.toml"
    file.write_text(GUEST + text)
    found = load_party(file).online
    assert found is not None
    return found


DIALLED = """
[party]
name = "registry"
role = "host"
identity = "keys/registry"
[data]
path = "vehicles.csv"
id = "plate"
[peers.insurer]
certificate = "insurer.pem"
"""


def test_an_address_for_hosts_that_dial(tmp_path: Path) -> None:
    file = tmp_path / "party.toml"
    guest = GUEST.replace('address = "127.0.0.1:7443"\n', "")
    guest = guest.replace('role = "guest"', 'role = "guest"\nlisten = "0.0.0.0:7443"') + LOCAL

    def load(text: str) -> Party:
        file.write_text(text)
        return load_party(file)

    for at in ("0.0.0.0:7444", "relay://relay.example:7443"):
        found = load(f'{guest}listen_for_hosts = "{at}"\n').online
        assert found is not None and found.listen_for_hosts == at
    taken = ("0.0.0.0:7443", "127.0.0.1:8443")
    for text, why in (
        *((f'{guest}listen_for_hosts = "{at}"\n', "is an address of its own") for at in taken),
        (f'{GUEST}{LOCAL}listen_for_hosts = "0.0.0.0:7444"\n', "is for hosts that dial"),
        (GUEST.replace("cert", 'online = "a:7444"\ncert'), "online is for a host's guest"),
        (f'{DIALLED}lookup = "sealed"\n', "lookup is for a guest's host"),
        (f'{DIALLED}online = "a:7444"\n', "is for a guest that is dialled"),
        (f'{DIALLED}address = "a:7444"\nonline = "a:7444"\n', "online and address are the same"),
    ):
        with pytest.raises(ConfigError, match=why):
            load(text)
    host = load(f'{DIALLED}address = "a:7443"\nonline = "a:7444"\n')
    assert host.peers["insurer"].online == "a:7444"


def test_a_section_with_its_defaults(tmp_path: Path) -> None:
    found = online(tmp_path, '[online]\ncertificate = "tls/a.pem"\nkey = "tls/a.key"\n')
    assert (found.listen, found.certificate, found.key) == (
        "127.0.0.1:8443",
        tmp_path / "tls" / "a.pem",
        tmp_path / "tls" / "a.key",
    )
    assert found.tokens == tmp_path / "online-tokens.toml"
    assert found.host("registry") == OnlineHostSection(
        deadline=100, away="missing", unknown="missing", max_age=31, stale="error"
    )
    own = online(tmp_path, LOCAL + '[online.hosts.registry]\naway = "error"\ndeadline = 20\n')
    assert (own.host("registry").away, own.host("registry").deadline) == ("error", 20)
    file = tmp_path / "insurer.toml"
    file.write_text(GUEST)
    assert load_party(file).online is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[online]\n", "[online] certificate and key are missing: name both, or say plain_http"),
        ('[online]\ncertificate = "a.pem"\n', "[online] certificate and key go together"),
        (LOCAL + 'certificate = "a.pem"\nkey = "a.key"\n', "plain_http = true and a certificate"),
        (LOCAL + 'listen = "0.0.0.0:8080"\n', "plain_http = true is for an address of this machine"),
        (LOCAL + 'listen = "example.org:8080"\n', "plain_http = true is for an address of this machine"),
        (
            '[online]\ncertificate = "a"\nkey = "b"\nwithout_tokens = true\nlisten = "[::]:1"\n',
            "without_tokens = true is for an address of this machine",
        ),
        (LOCAL + '[online.hosts.bureau]\naway = "error"\n', "[online.hosts.bureau] is of no host"),
        (LOCAL + "max_row = 5\n", "did you mean 'max_rows'?"),
        (LOCAL + 'models = ["a", "a"]\n', "must not name anything twice"),
        (LOCAL + '[online.hosts.registry]\nstale = "maybe"\n', '"error" or "use"'),
    ],
)
def test_what_a_section_cannot_say(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        online(tmp_path, text)
    assert said in str(error.value)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.8.8.8:1", "[::1]:8080", "localhost:8080"])
def test_addresses_of_this_machine(tmp_path: Path, listen: str) -> None:
    assert online(tmp_path, LOCAL + f'listen = "{listen}"\n').is_local


def test_a_host_has_no_service(tmp_path: Path) -> None:
    (tmp_path / "host.toml").write_text(GUEST.replace('"guest"', '"host"') + LOCAL)
    with pytest.raises(ConfigError, match=r"\[online\] belongs to the guest"):
        load_party(tmp_path / "host.toml")


def test_a_token_is_kept_as_its_digest_alone(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    day = datetime.now(UTC).date() + timedelta(30)
    first = add_token(path, "quotes", ["score", "explain"], 2.5, day)
    second = add_token(path, "monitor", ["metrics"])
    assert re.fullmatch(r"vfl_[A-Za-z0-9_-]{43}", first) and first != second
    text = path.read_text()
    assert first not in text and first.removeprefix("vfl_") not in text
    assert path.stat().st_mode & 0o777 == 0o600
    tokens = load_tokens(path)
    found = tokens.find(first)
    assert found is not None
    name, rights = found
    assert (name, rights.scopes, rights.rate, rights.expires) == (
        "quotes",
        ("score", "explain"),
        2.5,
        day,
    )
    assert tokens.find(second) is not None
    for other in ("", first[:-1], first + "x", "x" * 300, "ü"):
        assert tokens.find(other) is None
    with pytest.raises(Refused, match="has a token quotes already"):
        add_token(path, "quotes")
    assert path.read_text() == text


def test_a_token_ends_with_its_last_day(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    token = add_token(path, "quotes", expires=datetime.now(UTC).date() - timedelta(1))
    assert load_tokens(path).find(token) is None


DIGEST = 'digest = "sha256:' + "0" * 64 + '"'
SCORES = 'scopes = ["score"]'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[quotes\n", "tokens.toml, line 1 is not valid TOML"),
        ('[quotes]\n\nscopes = "\n', "tokens.toml, line 3 is not valid TOML"),
        ('[quotes]\nscopes = ["score"', "tokens.toml, line 2 is not valid TOML"),
        ("[quotes]\nrate = 1\n[quotes]\n", "tokens.toml, line 3 is not valid TOML"),
        ("[quotes]\n# \udcff", "tokens.toml, line 2 is not valid TOML"),
        (
            '[quotes]\n\n  digest = "secret-cell"\nscopes = ["score"]\n',
            "tokens.toml, line 3: quotes.digest is not as it should",
        ),
        ("# tokens\n[ quotes ]\nscopes = []\n", "tokens.toml, line"),
        ('\n["Quotes"]\n', "tokens.toml, line 2: Quotes is not as it should be"),
        ("\n\nquotes = 3\n", "tokens.toml, line 3: quotes is not as it should be"),
        (f'[q]\n{DIGEST}\nscopes = ["all"]\n', "tokens.toml, line 3: q.scopes.0 is not"),
        (f'[q]\n{DIGEST}\nscopes = ["score"]\nrate = "9"\n', "line 4: q.rate is not"),
        (f'[q]\n{DIGEST}\nscopes = ["score"]\nrates = 9\n', "line 4: q.rates is not"),
        (f"[p]\n{SCORES}\n{DIGEST}\n[q]\n{DIGEST}\n{SCORES}\n", "line 5: q has the digest of p"),
    ],
)
def test_a_file_of_tokens_that_cannot_be_used(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "tokens.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as error:
        load_tokens(path)
    assert said in str(error.value) and "secret-cell" not in str(error.value)


def test_the_command_prints_a_token_once(tmp_path: Path) -> None:
    done = commands.command("online", "token", "quotes", "--scope", "score", folder=tmp_path)
    assert (done.code, done.err) == (0, "")
    tokens = load_tokens(tmp_path / "online-tokens.toml")
    assert tokens.find(done.out.strip()) is not None
    assert tomllib.loads((tmp_path / "online-tokens.toml").read_text())["quotes"]["scopes"] == ["score"]
    again = commands.command("online", "token", "quotes", folder=tmp_path)
    assert again.code == Refused.exit_code and again.out == ""
    for wrong in (["--expires", "tomorrow"], ["--expires", "2020-01-01"], ["--rate", "0"]):
        done = commands.command("online", "token", "other", *wrong, folder=tmp_path)
        assert done.code == ConfigError.exit_code and len(done.err.splitlines()) == 1


def test_doctor_looks_at_what_the_service_needs(tmp_path: Path) -> None:
    def examined(section: str) -> list[CheckResult]:
        file = tmp_path / "insurer.toml"
        file.write_text(GUEST + section)
        found: list[CheckResult] = []
        asyncio.run(examine(load_party(file), 0, found.append))
        return [one for one in found if one.what == "online"]

    assert examined("") == []
    (missing,) = examined(LOCAL)
    assert missing.level == "FAIL" and "no file of tokens" in missing.text
    add_token(tmp_path / "online-tokens.toml", "quotes")
    add_token(
        tmp_path / "online-tokens.toml", "old", expires=datetime.now(UTC).date() - timedelta(days=1)
    )
    (fine,) = examined(LOCAL)
    assert fine.level == "ok" and fine.text.endswith("http://127.0.0.1:8443; 1 token of use")
    identity.create(tmp_path / "service", "service")
    section = '[online]\ncertificate = "service.pem"\nkey = "service.key"\n'
    (fine,) = examined(section)
    assert fine.level == "ok" and "https://127.0.0.1:8443; certificate until 20" in fine.text
    (tmp_path / "service.key").write_text("no key")
    (broken,) = examined(section)
    assert broken.level == "FAIL" and "cannot be used as certificate and key" in broken.text


GUIDE = (Path(__file__).parent.parent / "docs" / "online.md").read_text()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here")
def test_the_certificate_of_the_guide_can_be_served_with(tmp_path: Path) -> None:
    (commands_of,) = re.findall(r"^mkdir -p tls\n(openssl .*?)^```", GUIDE, re.M | re.S)
    (tmp_path / "tls").mkdir()
    words = shlex.split(commands_of.replace("\\\n", " "))
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    made = ServiceCertificate(tmp_path / "tls" / "quotes.pem", tmp_path / "tls" / "quotes.key")
    assert 360 < (made.ends - datetime.now(UTC)).days <= 365


def test_the_request_of_the_guide_is_one_of_the_car_scenario() -> None:
    (request,) = re.findall(r"^curl .*?-d '(.*?)'$", GUIDE, re.M | re.S)
    asked = parse_score(request.encode(), 10)
    samples = Path(__file__).parent.parent / "data_samples" / "insurer" / "new_policies.csv"
    with samples.open(newline="") as file:
        first = next(csv.DictReader(file))
    (row,) = asked.rows
    assert isinstance(row, dict)
    assert {name: str(cell) for name, cell in row.items()} == first
