"""The files a person writes: what is accepted, and how each mistake is named."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfl.errors import ConfigError
from vfl.learn.losses import LogisticLoss, PoissonLoss, TweedieLoss
from vfl.party.config import Job, Party, load_job, load_party, schema
from vfl.party.id_cells import IdReading
from vfl.party.sections import DataSection

GUEST = """
[party]
name = "insurer"
role = "guest"
identity = "keys/insurer"
[data]
path = "policies.csv"
id = ["plate"]
label = "claim"
[peers.registry]
address = "registry.example:7443"
certificate = "peers/registry.pem"
"""
HOST = """
[party]
name = "registry"
role = "host"
identity = "keys/registry"
listen = "0.0.0.0:7443"
[data]
path = "/data/vehicles.parquet"
id = "plate"
[peers.insurer]
certificate = "peers/insurer.pem"
"""
JOB = """
[job]
name = "claim-probability"
purpose = "motor pricing 2027"
model = "secureboost"
objective = "binary"
[secureboost]
trees = 50
"""


def party(folder: Path, text: str, name: str = "insurer.toml") -> Party:
    (folder / name).write_text(text)
    return load_party(folder / name)


def job(folder: Path, text: str, name: str = "claim.toml") -> Job:
    (folder / name).write_text(text)
    return load_job(folder / name)


def edited(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


def test_a_guest_with_defaults(tmp_path):
    p = party(tmp_path, GUEST)
    assert (p.name, p.role, p.data.label) == ("insurer", "guest", "claim")
    assert p.data.id == ("plate",)
    assert p.data.path == tmp_path / "policies.csv"
    assert p.party.identity == tmp_path / "keys/insurer"
    assert p.party.store == tmp_path / "vfl-store"
    assert p.peers["registry"].certificate == tmp_path / "peers/registry.pem"
    assert p.data.normalise == ("nfkc", "trim", "upper", "alnum")
    assert p.data.duplicates == "refuse"
    assert (p.policy.min_intersection, p.policy.min_child_rows) == (1000, 20)
    assert (p.policy.key_bits, p.policy.show_names) == (2048, False)


def test_a_host_with_one_id_as_text_and_an_absolute_path(tmp_path):
    p = party(tmp_path, HOST)
    assert p.data.id == ("plate",)
    assert p.data.path == Path("/data/vehicles.parquet")
    assert p.peers["insurer"].address is None


def test_a_host_may_pin_a_fellow_host_that_it_never_dials(tmp_path):
    dialling = edited(HOST, 'listen = "0.0.0.0:7443"\n', "")
    fellow = '[peers.bureau]\ncertificate = "peers/bureau.pem"\n'
    with pytest.raises(ConfigError, match=r"\[peers.insurer\] needs an address"):
        party(tmp_path, dialling + fellow)
    reached = edited(
        dialling, "[peers.insurer]\n", '[peers.insurer]\naddress = "insurer.example:7443"\n'
    )
    assert party(tmp_path, reached + fellow).peers["bureau"].address is None
    # A guest, though, must come to a session with every host.
    with pytest.raises(ConfigError, match=r"\[peers.bureau\] needs an address"):
        party(tmp_path, GUEST + fellow)


def test_paths_do_not_depend_on_the_working_folder(tmp_path, monkeypatch):
    party(tmp_path, GUEST)
    monkeypatch.chdir(tmp_path)
    assert load_party("insurer.toml").data.path == tmp_path / "policies.csv"


def test_a_file_saved_with_a_byte_order_mark(tmp_path):
    (tmp_path / "p.toml").write_bytes(b"\xef\xbb\xbf" + GUEST.encode())
    assert load_party(tmp_path / "p.toml").name == "insurer"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("policies.csv", b"plate,claim\n7777,0\n"),
        ("a.CSV", b"\xe9,claim\n"),
        ("a.parquet", b"PAR1\0\x99"),
    ],
)
def test_a_table_in_place_of_a_party_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        load_party(tmp_path / name)
    needed = "a party file is needed here, which `vfl init NAME --data TABLE` drafts"
    assert str(raised.value) == f"{name} seems to be a table: {needed}"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "ins', 'nmae = "ins', "unknown key 'nmae' in [party]: did you mean 'name'?"),
        ("[data]", '[data]\ntape = "all"', "unknown key 'tape' in [data]: it is a key of [party]"),
        ("[party]", 'tape = "all"\n[party]', "'tape' is no section but a key of [party]: write"),
        ("[data]", "[date]", "unknown section [date]: did you mean 'data'?"),
        ("[data]", "[policy]\nx9 = 1\n[data]", "guests, purposes, models, objectives, columns"),
        ("[data]", "[policy]\nmin_intersection = 0\n[data]", "[policy] min_intersection must be a"),
        ("[data]", "[policy]\nkey_bits = 1024\n[data]", "key_bits must be 2048, 3072 or 4096"),
        ("[data]", "[policy]\nshow_names = 1\n[data]", "[policy] show_names must be true or false"),
        ('name = "insurer"', 'name = "Secret Ltd"', "[party] name must be up to 32 lower-case"),
        ('role = "guest"', 'role = "secret"', '[party] role must be "guest", "host" or'),
        ('identity = "keys/insurer"\n', "", "[party] identity is missing"),
        ('identity = "keys/insurer"', "identity = 3", "[party] identity must be a path in quotes"),
        ('path = "policies.csv"', 'path = ""', "[data] path must be a path"),
        ('"policies.csv"', '"C:\\data\\x.csv"', "is not valid TOML; write paths with / instead"),
        ('id = ["plate"]', "id = []", "[data] id must be non-empty text in quotes or a list of"),
        ('id = ["plate"]', "id = 7", "[data] id must be non-empty text in quotes or a list of"),
        ('id = ["plate"]', 'id = ["a", "a"]', "[data] id must not name anything twice"),
        ('id = ["plate"]\n', "", "[data] id is missing"),
        ("label", 'normalise = ["secret"]\nlabel', '[data] normalise must be a list of "nfkc", "trim"'),
        ("label", 'duplicates = "newest"\nlabel', '[data] duplicates must be "refuse", "first", "keep"'),
        ("label", 'columns = ["a"]\nignore = ["b"]\nlabel', "[data] columns and ignore exclude"),
        ("label", 'categorical = ["plate"]\nlabel', "[data] an id column is never a feature"),
        ("label", 'columns = ["claim"]\nlabel', "[data] label must not be listed under columns"),
        ("label", 'weight = "claim"\nlabel', "[data] label and weight must be two different"),
        ("label", 'offset = "a"\nexposure = "a"\nlabel', "[data] exposure and offset must be two"),
        ("label", 'exposure = "plate"\nlabel', "[data] exposure must not be listed under id as well"),
        ("label", 'as_text = ["region"]\nlabel', "[data] as_text has 'region', which is no id column"),
        ("label", 'merging = "first"\nlabel', '[data] merging must be "refuse" or "allow"'),
        ("label", "unknown_levels = 2\nlabel", "[data] unknown_levels must be a number from 0 to 1"),
        ("label", 'offset = "a"\ncolumns = ["a"]\nlabel', "[data] offset must not be listed under col"),
        ("label", 'monotone = {claim = "increasing"}\nlabel', "label must not be listed under monotone"),
        ("label", 'monotone = {plate = "increasing"}\nlabel', "take it out of monotone"),
        ("label", "monotone = {age = 1}\nlabel", '[data.monotone] age must be "increasing" or "decr'),
        ("label", 'monotone = ["age"]\nlabel', "[data] monotone must be a section"),
        (
            "label",
            'categorical = ["area"]\nmonotone = {area = "increasing"}\nlabel',
            "[data] monotone has 'area', which is under categorical: names have no order",
        ),
        (
            "label",
            'ignore = ["age"]\nmonotone = {age = "increasing"}\nlabel',
            "[data] monotone has 'age', which is no feature by columns or ignore",
        ),
        (
            "label",
            'columns = ["area"]\nmonotone = {age = "increasing"}\nlabel',
            "[data] monotone has 'age', which is no feature by columns or ignore",
        ),
        ("[peers", "[glm]\nbins = 1\n[peers", "[glm] bins must be a whole number from 2 to 255"),
        ("[peers", '[glm]\nmissing = "no"\n[peers', 'missing must be "mean", "median" or "level"'),
        ("[peers", "[glm]\nmin_level_rows = 0\n[peers", "min_level_rows must be a whole number of at"),
        ("[peers", '[glm]\nbinned = ["a", "a"]\n[peers', "[glm] binned must not name anything twice"),
        ("[peers", '[glm]\nbinned = ["claim"]\n[peers', "[glm] binned names a column that is no featu"),
        ("[peers", '[glm]\nbinned = ["plate"]\n[peers', "[glm] binned names a column that is no featu"),
        ("[peers", '[glm.base]\nage = "77"\n[peers', "[glm] base names a column without levels, 'age'"),
        ("[peers", "[glm.base]\nage = 77\n[peers", "[glm.base] age must be text in quotes"),
        ("[peers", '[glm]\nbase = "77"\n[peers', "[glm] base must be a section"),
        ("[peers", "[glm]\nstep = 10\n[peers", "[glm] step must be a section"),
        ("[peers", "[glm.step]\nage = 0\n[peers", "[glm.step] age must be a number above 0"),
        ("[peers", "[glm.step]\nage = inf\n[peers", "[glm.step] age must be a number above 0"),
        ("[peers", '[glm.step]\nage = "10"\n[peers', "[glm.step] age must be a number above 0"),
        ("[peers", "[glm.step]\nplate = 10\n[peers", "[glm] step names a column that is no feature"),
        ("[peers", '[glm]\nbined = ["a"]\n[peers', "'bined' in [glm]: did you mean 'binned'?"),
        ("[peers.registry]", "[peers.Secret]", "[peers.NAME]: the NAME must be up to 32"),
        ("[peers.registry]", "[peers.insurer]", "[peers.insurer] is this party itself"),
        ('address = "registry.example:7443"\n', "", "[peers.registry] needs an address, or [party]"),
        (":7443", ":99999", "[peers.registry] address must be host:port with a port from 1 to"),
        (":7443", "", "[peers.registry] address must be host:port with a port from 1 to"),
        ('role = "guest"', 'role = "host"', "[data] label belongs to the guest: a host has none"),
        ('certificate = "peers/registry.pem"', "", "[peers.registry] certificate is missing"),
        ("[data]", "[data", "line 6, column 6 is not valid TOML"),
        ('name = "insurer"', 'name = "a"\nname = "b"', "a key or section is given twice"),
    ],
)
def test_a_mistake_in_a_party_file_is_named(tmp_path, old, new, said):
    with pytest.raises(ConfigError) as raised:
        party(tmp_path, edited(GUEST, old, new))
    text = str(raised.value)
    assert text.startswith("insurer.toml: ")
    assert said in text
    assert "\n" not in text
    for value in ("ecret", "1024", "99999", "newest", "77"):
        assert value not in text


def test_exposure_and_offset_are_the_guests(tmp_path):
    data = party(tmp_path, edited(GUEST, "label", 'exposure = "years"\noffset = "rate"\nlabel')).data
    assert (data.exposure, data.offset) == ("years", "rate")
    assert data.guests == {"label": "claim", "weight": None, "exposure": "years", "offset": "rate"}
    for key in ("label", "weight", "exposure", "offset"):
        with pytest.raises(ConfigError, match=rf"\[data\] {key} belongs to the guest: a host has none"):
            party(tmp_path, edited(HOST, 'id = "plate"', f'id = "plate"\n{key} = "a"'))


def test_what_is_an_id_and_how_many_levels_may_be_unknown(tmp_path):
    data = party(tmp_path, edited(GUEST, "label", 'as_text = ["plate"]\nmerging = "allow"\nlabel')).data
    assert data.id_readings == [IdReading(as_text=frozenset({0}), merging="allow")]
    assert party(tmp_path, GUEST).data.id_readings == [IdReading()]
    assert party(tmp_path, GUEST).data.unknown_levels == 0.1
    with pytest.raises(ConfigError, match=r"\[data\] unknown_levels belongs to the guest"):
        party(tmp_path, edited(HOST, 'id = "plate"', 'id = "plate"\nunknown_levels = 0.5'))


def test_a_job_says_which_columns_of_the_party_file_it_uses(tmp_path):
    """Without a word: an exposure for counts alone, offset and weight for all."""
    names = {"exposure": "years", "offset": "rate", "weight": "w"}
    data = DataSection(path=tmp_path / "t.csv", id=("plate",), label="claim", **names)
    binary = job(tmp_path, JOB)
    assert binary.uses(data) == {"offset": "rate", "weight": "w"}
    assert not any(f'"{name}":'.encode() in binary.canonical for name in names)  # as ever
    counts = edited(JOB, 'objective = "binary"', 'objective = "poisson"')
    assert job(tmp_path, counts).uses(data) == names
    lines = 'objective = "poisson"\nexposure = false\noffset = false\nweight = true'
    said = job(tmp_path, edited(JOB, 'objective = "binary"', lines))
    assert said.uses(data) == {"weight": "w"}
    assert Job.from_canonical(said.canonical) == said and b'"exposure":false' in said.canonical
    without = DataSection(path=tmp_path / "t.csv", id=("plate",), label="claim")
    assert job(tmp_path, counts).uses(without) == {}
    with pytest.raises(
        ConfigError, match=r"\[job\] weight = true, but \[data\] of the party file names no"
    ):
        said.uses(without)
    with pytest.raises(
        ConfigError, match=r"claim.toml: \[job\] exposure is for counts \(poisson\): a 0/1"
    ):
        job(tmp_path, edited(JOB, 'objective = "binary"', 'objective = "binary"\nexposure = true'))


def with_glm(folder: Path, lines: str) -> Party:
    """A host whose columns area (categorical) and age enter a linear model as `lines` say."""
    return party(
        folder, edited(HOST, 'id = "plate"\n', f'id = "plate"\ncategorical = ["area"]\n{lines}')
    )


def test_how_columns_enter_a_linear_model(tmp_path):
    default = party(tmp_path, HOST).glm
    assert (default.binned, default.bins, default.missing) == ((), 10, "mean")
    assert (default.base, default.min_level_rows) == ({}, 20)
    levels = '[glm]\nbinned = ["age"]\nmissing = "level"\nbase = {area = "A", age = "(18, 25]"}\n'
    found = with_glm(tmp_path, levels).glm
    assert (found.binned, found.missing) == (("age",), "level")
    assert found.base == {"area": "A", "age": "(18, 25]"}
    no_feature = r"\[glm\] binned names a column that is no feature by \[data\]"
    for line in ('columns = ["area"]\n', 'ignore = ["age"]\n'):
        with pytest.raises(ConfigError, match=no_feature):
            with_glm(tmp_path, line + levels)
    with pytest.raises(
        ConfigError, match=r"binned names a column that \[data\] lists under categorical"
    ):
        with_glm(tmp_path, '[glm]\nbinned = ["area"]\n')
    found = with_glm(tmp_path, "[glm]\nstep = {age = 10, power = 2.5}\n").glm
    assert found.step == {"age": 10, "power": 2.5} and "step" not in found.rules
    for lines, said in (
        ("[glm]\nstep = {area = 1}\n", r"step names a column that \[data\] lists under categorical"),
        ('[glm]\nbinned = ["age"]\nstep = {age = 1}\n', "step names a column that binned cuts into"),
    ):
        with pytest.raises(ConfigError, match=said):
            with_glm(tmp_path, lines)


def test_a_misspelt_key_counts_once_and_others_are_counted(tmp_path):
    with pytest.raises(ConfigError) as raised:
        party(tmp_path, edited(GUEST, "name =", "nmae ="))
    assert "more problem" not in str(raised.value)
    with pytest.raises(ConfigError, match=r"'nmae'.*\(and 2 more problems\)$"):
        party(tmp_path, edited(GUEST, "name =", "nmae =").replace('"guest"', "1").replace("path", "x"))


def test_no_peer(tmp_path):
    with pytest.raises(ConfigError, match=r"\[peers\] is empty: add .* for the host"):
        party(tmp_path, GUEST.split("[peers")[0])
    with pytest.raises(ConfigError, match=r"\[peers\] is empty: add .* for the guest"):
        party(tmp_path, HOST.split("[peers")[0])


def test_a_missing_section(tmp_path):
    with pytest.raises(ConfigError, match=r"^insurer.toml: section \[data\] is missing$"):
        party(tmp_path, GUEST.split("[data]")[0] + "[peers" + GUEST.split("[peers")[1])


def test_the_port_to_listen_on(tmp_path):
    assert party(tmp_path, edited(HOST, ":7443", ":0")).party.listen == "0.0.0.0:0"
    with pytest.raises(ConfigError, match=r"\[party\] listen must be host:port .* from 0"):
        party(tmp_path, edited(HOST, ":7443", ":port"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("trees = 50", "tres = 50", "unknown key 'tres' in [secureboost]: did you mean 'trees'?"),
        (
            "trees = 50",
            'first_tree = "guest"',
            "[secureboost] first_tree is no setting any more: write guest_trees = 1 in its place",
        ),
        (
            "trees = 50",
            'first_tree = "joint"',
            "[secureboost] first_tree is no setting any more: remove it, all trees are joint by",
        ),
        (
            "trees = 50",
            "guest_trees = 51",
            "[secureboost] guest_trees = 51 is more than trees = 50: lower it",
        ),
        ("trees = 50", "trees = 0", "[secureboost] trees must be a whole number from 1 to 5000"),
        ("trees = 50", "trees = true", "[secureboost] trees must be a whole number from 1 to 5000"),
        ("trees = 50", 'trees = "77"', "[secureboost] trees must be a whole number from 1 to 5000"),
        ("trees = 50", "trees = 77.5", "[secureboost] trees must be a whole number from 1 to 5000"),
        ("trees = 50", "gamma = -7.75", "[secureboost] gamma must be a number of at least 0"),
        ("trees = 50", "subsample = nan", "subsample must be a number above 0 and of at most 1"),
        ("[secureboost]\ntrees = 50", "holdout = 1.0", "[job] holdout must be a number of at least"),
        ('"binary"', '"secret"', '[job] objective must be "binary", "poisson", "gamma", "tweed'),
        ('"secureboost"', '"secret"', '[job] model must be "secureboost" or "glm"'),
        ('objective = "binary"', "", '[job] objective is missing, which model = "secureboost" needs'),
        ("objective", 'family = "poisson"\nobjective', '[job] family is not for model = "secureboost"'),
        ('"secureboost"', '"glm"', '[job] objective is not for model = "glm": write family'),
        (
            "[secureboost]",
            "[glm]\n[secureboost]",
            'section [glm] is not for model = "secureboost": remo',
        ),
        *(
            (
                "trees = 50",
                f"tweedie_power = {power}",
                "tweedie_power must be a number from 1.001 to 1.999",
            )
            for power in ("2.0", "1.0", "1.000000000000001", "1.9999999999999998", "1.0009", "nan", "-1")
        ),
        ("trees = 50", "goss_top = 0.77", "[secureboost] goss_top and goss_other belong together"),
        (
            "trees = 50",
            "goss_top = 0.77\ngoss_other = 0.5",
            "[secureboost] goss_top and goss_other are sh",
        ),
        (
            "trees = 50",
            "goss_top = 0.2\ngoss_other = 0.1\nsubsample = 0.77",
            "[secureboost] subsample and goss_top both draw rows: keep one of them",
        ),
        (
            "trees = 50",
            "goss_top = 1.0",
            "[secureboost] goss_top must be a number of at least 0 and below 1",
        ),
        ('"motor pricing 2027"', '"a\\nb"', "[job] purpose must be one line of printable text"),
        ('"motor pricing 2027"', '""', "[job] purpose must be text of 1 to 200 characters"),
        ('"motor pricing 2027"', f'"{"y" * 201}"', "purpose must be text of 1 to 200 characters"),
        ('"claim-probability"', '"../secret"', "[job] name must be up to 64 lower-case letters"),
        ("[secureboost]", "[boost]", "unknown section [boost]"),
    ],
)
def test_a_mistake_in_a_job_file_is_named(tmp_path, old, new, said):
    with pytest.raises(ConfigError) as raised:
        job(tmp_path, edited(JOB, old, new))
    text = str(raised.value)
    assert text.startswith("claim.toml: ")
    assert said in text
    for value in ("secret", "7.5", "77", "yyy"):
        assert value not in text


GLM = JOB.replace("secureboost", "glm").replace('objective = "binary"', 'family = "poisson"')
GLM = GLM.replace("trees = 50", "alpha = 0.5")


def test_a_linear_model(tmp_path):
    j = job(tmp_path, GLM)
    assert (j.job.model, j.job.family, j.job.objective) == ("glm", "poisson", None)
    assert (j.glm.alpha, j.glm.scores, j.glm.fit_intercept) == (0.5, "guest", True)
    assert (j.glm.max_iterations, j.glm.tolerance, j.glm.key_bits) == (100, 1e-6, 2048)
    assert j.loss == PoissonLoss()
    assert Job.from_canonical(j.canonical) == j
    told = json.loads(j.canonical)
    assert set(told) == {"job", "glm"} and "objective" not in told["job"]
    boosted = json.loads(job(tmp_path, JOB).canonical)
    assert set(boosted) == {"job", "secureboost"} and "family" not in boosted["job"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            '"poisson"',
            '"squared"',
            '[job] family must be "logistic", "poisson", "negative_binomial", "gamma", ',
        ),
        (
            'family = "poisson"',
            "",
            '[job] family is missing, which model = "glm" needs: "logistic", "poisson"',
        ),
        ("family", 'objective = "poisson"\nfamily', '[job] objective is not for model = "glm"'),
        ("[glm]", "[secureboost]\n[glm]", 'section [secureboost] is not for model = "glm": remove it'),
        ("alpha = 0.5", "alpha = -0.77", "[glm] alpha must be a number of at least 0"),
        ("alpha = 0.5", "max_iterations = 0", "max_iterations must be a whole number from 1 to 10,000"),
        ("alpha = 0.5", "tolerance = 0.0", "[glm] tolerance must be a number above 0"),
        ("alpha = 0.5", 'scores = "all"', '[glm] scores must be "guest" or "hidden"'),
        *(
            (
                "alpha = 0.5",
                f"tweedie_power = {power}",
                "tweedie_power must be a number from 1.001 to 1.999",
            )
            for power in ("1.0", "2.0", "1.000000000000001", "1.9999999999999998", "1.9991", "inf")
        ),
        (
            "alpha = 0.5",
            'encryption = "ou"',
            '[glm] encryption must be "paillier" or "lattice": "ou" (Okamoto-Uchiyama) was taken out',
        ),
        ("alpha = 0.5", 'encryption = "none"', '[glm] encryption must be "paillier"'),
    ],
)
def test_a_mistake_in_a_job_of_a_linear_model_is_named(tmp_path, old, new, said):
    with pytest.raises(ConfigError) as raised:
        job(tmp_path, edited(GLM, old, new))
    text = str(raised.value)
    assert said in text
    assert "\n" not in text and "77" not in text


def test_the_loss_of_a_job(tmp_path):
    power = edited(JOB, "trees = 50", "tweedie_power = 1.25")
    assert job(tmp_path, JOB).loss == LogisticLoss()
    assert job(tmp_path, edited(power, "binary", "tweedie")).loss == TweedieLoss(1.25)
    power = edited(GLM, "alpha = 0.5", "tweedie_power = 1.25")
    assert job(tmp_path, edited(power, "poisson", "tweedie")).loss == TweedieLoss(1.25)


def test_one_file_in_place_of_the_other(tmp_path):
    with pytest.raises(ConfigError, match=r"^insurer.toml is a job file, where a party file is"):
        party(tmp_path, JOB)
    with pytest.raises(ConfigError, match=r"^claim.toml is a party file, where a job file is"):
        job(tmp_path, GUEST)


def test_a_missing_file(tmp_path):
    party(tmp_path, GUEST)
    with pytest.raises(ConfigError, match=r"insurr.toml: did you mean insurer.toml\?"):
        load_party(tmp_path / "insurr.toml")
    with pytest.raises(ConfigError, match=r"zzz: the folder has insurer.toml"):
        load_party(tmp_path / "zzz")
    with pytest.raises(ConfigError, match=r"no job file .*zzz$"):  # of jobs it has none
        load_job(tmp_path / "zzz")
    with pytest.raises(ConfigError, match="there is no folder"):
        load_party(tmp_path / "none" / "insurer.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_job(tmp_path)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "p.toml").write_bytes(b"[party]\nname = '\xe9'\n")
    with pytest.raises(ConfigError, match=r"p.toml: line 2 is not UTF-8"):
        load_party(tmp_path / "p.toml")
    (tmp_path / "p.toml").write_bytes(b"#" * (1 << 20) + b"#")
    with pytest.raises(ConfigError, match="over 1 MiB"):
        load_party(tmp_path / "p.toml")


def test_a_job_and_its_canonical_form(tmp_path):
    j = job(tmp_path, JOB)
    assert (j.name, j.job.holdout, j.secureboost.trees) == ("claim-probability", 0.2, 50)
    assert Job.from_canonical(j.canonical) == j
    assert len(j.digest) == 64
    written_out = edited(JOB, "[secureboost]", "holdout = 0.2\n[secureboost]\nreg_lambda = 1")
    assert job(tmp_path, written_out).digest == j.digest
    assert job(tmp_path, JOB.split("[secureboost]")[0]).digest == j.digest  # 50 is the default
    assert job(tmp_path, edited(JOB, "50", "51")).digest != j.digest


@given(
    name=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True),
    purpose=st.text(st.characters(codec="utf-8"), min_size=1, max_size=200).filter(str.isprintable),
    holdout=st.floats(0, 1, exclude_max=True),
    rate=st.floats(0, 1, exclude_min=True),
    seed=st.integers(0, 2**63 - 1),
)
def test_any_job_comes_back_from_its_canonical_form(name, purpose, holdout, rate, seed):
    raw = {
        "job": {
            "name": name,
            "purpose": purpose,
            "model": "secureboost",
            "objective": "binary",
            "holdout": holdout,
        },
        "secureboost": {"learning_rate": rate, "seed": seed},
    }
    j = Job.model_validate(raw)
    back = Job.from_canonical(j.canonical)
    assert back == j
    assert back.digest == j.digest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda b: b" " + b, "not in canonical form"),
        (lambda b: b.replace(b'"holdout":0.2', b'"holdout":2e-1'), "not in canonical form"),
        (lambda b: b.replace(b'"holdout":0.2,', b""), "not in canonical form"),
        (lambda b: b.replace(b'"job":{', b'"job":{"name":"x",'), "not in canonical form"),
        (lambda b: b.replace(b":0.2", b":NaN"), "[job] holdout must be a number"),
        (lambda b: b.replace(b'"trees":50', b'"trees":"secret"'), "trees must be a whole number"),
        (lambda b: b.replace(b'"trees"', b'"tr\xc2\x9bees"'), "unknown key 'tr?ees'"),
        (lambda b: b.replace(b"motor", b"\xff"), "no valid JSON"),
        (lambda b: b.replace(b"motor", b"\\ud800"), "[job] purpose must be text"),
        (lambda b: b.replace(b'"job"', b'"\\udfff"'), "the name of a section is no text"),
        (lambda b: b.replace(b'"job"', b'"\\udfff":{},"job"'), "the name of a section is no text"),
        (lambda b: b.replace(b'"trees"', b'"\\udfff"'), "[secureboost]"),
        (lambda b: b[:-1], "no valid JSON"),
        (lambda _: b"[" * 60_000, "no valid JSON"),
        (lambda _: b"9" * 60_000, "no valid JSON"),
        (lambda _: b"[]", "no table"),
        (lambda _: b"x" * 65_537, "65,537 bytes, over 65,536"),
    ],
)
def test_bytes_of_a_peer_that_are_no_job(tmp_path, change, said):
    good = job(tmp_path, JOB).canonical
    bad = change(good)
    assert bad != good
    with pytest.raises(ConfigError) as raised:
        Job.from_canonical(bad)
    assert said in str(raised.value)
    assert raised.value.for_peer == str(raised.value)
    assert "secret" not in str(raised.value)
    assert str(raised.value).isprintable()


def test_the_schemas_are_json():
    for kind, section in (("party", "data"), ("job", "secureboost")):
        made = json.loads(json.dumps(schema(kind)))
        assert section in made["properties"]
        assert made["additionalProperties"] is False
        assert made["title"] == f"vfl {kind} file"


KEYS = """
[[data.fallback]]
id = ["plate", "born"]
normalise = {plate = ["plate"], born = ["date"]}
"""


def test_several_keys(tmp_path):
    p = party(tmp_path, edited(GUEST, 'id = ["plate"]', 'id = "vin"').replace("[peers", KEYS + "[peers"))
    assert [key.id for key in p.data.keys] == [("vin",), ("plate", "born")]
    assert p.data.keys[0].normalise == ("nfkc", "trim", "upper", "alnum")
    assert p.data.keys[1].normalise == ("plate", "|", "date")
    assert p.data.id_columns == ("vin", "plate", "born")
    assert (p.align.engine, p.align.join) == ("ecdh", "inner")


def test_how_a_guest_aligns(tmp_path):
    p = party(tmp_path, GUEST + '[align]\nengine = "ot"\njoin = "left"\n')
    assert (p.align.engine, p.align.join) == ("ot", "left")
    p = party(tmp_path, HOST + '[policy]\nengines = ["ot"]\njoins = ["inner"]\n')
    assert (p.policy.engines, p.policy.joins) == (("ot",), ("inner",))
    assert (p.policy.max_alignments_a_day, p.policy.max_ids_a_day, p.policy.alignment_days) == (
        5,
        1_000_000,
        365,
    )


@pytest.mark.parametrize(
    ("text", "lines", "said"),
    [
        (GUEST, 'duplicates = "sum"', 'duplicates = "sum" belongs to a host: a guest refuses'),
        (GUEST, 'duplicates = "first"\naggregate = {power = "sum"}', "aggregate belongs to a host"),
        (HOST, 'duplicates = "keep"', 'duplicates = "keep" belongs to the guest'),
        (HOST, 'aggregate = {power = "sum"}', "aggregate goes with a rule for repeated ids: set dupl"),
        (
            HOST,
            'duplicates = "sum"\ncategorical = ["brand"]',
            "says nothing of categorical column 'brand': add first, last or mode for it under aggregate",
        ),
        (
            HOST,
            'duplicates = "first"\ncategorical = ["brand"]\naggregate = {brand = "max"}',
            "aggregate has 'brand', which is under categorical: names have first, last and mode alone",
        ),
        (
            HOST,
            'duplicates = "sum"\naggregate = {power = "mode"}',
            "with mode, which is for columns under",
        ),
        (
            HOST,
            'duplicates = "sum"\naggregate = {plate = "max"}',
            "aggregate has 'plate', which is no feat",
        ),
        (HOST, 'categorical = ["b"]\nfallback = [{id = "b"}]', "an id column is never a feature"),
        (HOST, 'fallback = [{id = "plate"}]', "two keys have the same id columns: keep one"),
        (
            HOST,
            'fallback = [{id = "b", normalize = ["trim"]}]',
            "unknown key 'normalize' in [[data.fallback]] number 1",
        ),
        (HOST, 'fallback = [{id = "b", normalise = ["trimm"]}]', "normalise must be a list of"),
        (HOST, 'empty = "keep"', '[data] empty must be "refuse" or "drop"'),
    ],
)
def test_a_mistake_about_matching_is_named(tmp_path, text, lines, said):
    with pytest.raises(ConfigError) as raised:
        party(tmp_path, edited(text, "[peers.", f"{lines}\n[peers."))
    assert said in str(raised.value)


def test_a_host_has_no_section_align(tmp_path):
    with pytest.raises(ConfigError, match=r"\[align\] belongs to the guest: a host says in \[policy\]"):
        party(tmp_path, HOST + '[align]\njoin = "left"\n')


def test_rules_for_repeated_ids_by_column(tmp_path):
    lines = 'duplicates = "sum"\ncategorical = ["brand"]\naggregate = {brand = "mode", age = "max"}\n'
    p = party(tmp_path, edited(HOST, "[peers.", f"{lines}[peers."))
    assert p.data.aggregate == {"brand": "mode", "age": "max"}
