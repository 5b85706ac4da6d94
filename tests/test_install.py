"""Installing: the locked versions, their audit, and that no folder hides an editable install."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from flit_core import buildapi
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LOCKS = ROOT / "requirements"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
SHOWN = "import vfl; print(vfl.__file__, vfl.__version__)"

# Each Python and machine that the locks are for: what decides about a requirement's marker.
ENVIRONMENTS = [
    {
        "python_version": python,
        "python_full_version": f"{python}.4",
        "sys_platform": system,
        "platform_system": {"linux": "Linux", "darwin": "Darwin"}[system],
        "platform_machine": machine,
    }
    for python in ("3.11", "3.12", "3.13", "3.14")
    for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
]


def locked(name: str) -> list[tuple[Requirement, list[str]]]:
    """Each requirement of a lock with its digests."""
    lines = (LOCKS / name).read_text().replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        if line and not line.lstrip().startswith("#"):
            requirement, *digests = re.split(r"\s+--hash=", line)
            found.append((Requirement(requirement), digests))
    return found


def versions(name: str, environment: dict[str, str]) -> dict[str, str]:
    """The versions that a lock installs somewhere, by package."""
    found: dict[str, str] = {}
    for requirement, _ in locked(name):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert requirement.name not in found, f"two versions of {requirement.name} in {name}"
            (version,) = requirement.specifier
            found[requirement.name] = version.version
    return found


def declared(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for, with extras, those of extras as well."""
    project = PROJECT["project"]
    found = [Requirement(line) for line in project["dependencies"]]
    for extra in extras:
        for line in project["optional-dependencies"][extra]:
            one = Requirement(line)
            found += declared(*one.extras) if one.name == "vfl" else [one]
    return found


@pytest.mark.parametrize("name", ["run.txt", "dev.txt", "image.txt", "lock.txt"])
def test_a_lock_has_one_version_and_digests_of_each_package_and_no_address(name: str) -> None:
    for requirement, digests in locked(name):
        assert [one.operator for one in requirement.specifier] == ["=="]
        assert digests and all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in digests)
        assert requirement.url is None
    text = (LOCKS / name).read_text()
    assert "://" not in text and "index" not in text and "--find-links" not in text


def test_locks_are_those_of_the_project() -> None:
    for own in ENVIRONMENTS:
        environment = {**default_environment(), **own}
        run, dev = versions("run.txt", environment), versions("dev.txt", environment)
        image = versions("image.txt", environment)
        assert dev.items() >= run.items() and dev.items() >= image.items()
        build = [Requirement(line) for line in PROJECT["dependency-groups"]["build"]]
        for wanted, have in (
            (declared("report"), run),
            (declared("excel", "online", "otel", "postgresql", "report"), image),
            (declared("dev"), dev),
            (build, run),
        ):
            for one in wanted:
                name = one.name.replace("_", "-")
                assert have[name] in one.specifier, f"{one} against {have[name]}: run `make lock`"


def test_what_builds_the_project_is_locked() -> None:
    assert set(PROJECT["build-system"]["requires"]) <= set(PROJECT["dependency-groups"]["build"])


def test_the_projects_packages_come_with_every_install() -> None:
    names = {one.name for one in declared()}
    assert names >= {"pandas", "numpy", "phe", "scikit-learn", "lightgbm", "click"}
    assert "pytest" in {one.name for one in declared("dev")}


# --- The audit. -----------------------------------------------------------------------------------

UNASKED = {"name": "phe", "skip_reason": "not found"}
GOOD = {"name": "click", "version": "8.5.1", "vulns": []}
BAD = {"name": "rich", "version": "15.0.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["15.1"]}]}


def audited(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    """The audit with a pip-audit that does as told."""
    (folder / "pip_audit.py").write_text(program)
    return subprocess.run(
        [sys.executable, ROOT / ".ci" / "audit.py", LOCKS / "dev.txt"],
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        ([GOOD, UNASKED], 0, "audit: asked about 1 of 2 packages, 0 with known vulnerabilities"),
        ([GOOD, BAD], 1, "rich 15.0.0: PYSEC-1, mended in 15.1"),
        ([UNASKED, UNASKED], 0, "audit skipped: this index knows of no vulnerabilities"),
    ],
)
def test_the_audit_says_what_is_known(tmp_path: Path, found: list, code: int, said: str) -> None:
    answer = json.dumps({"dependencies": found, "fixes": []})
    done = audited(tmp_path, f"print({answer!r})\nraise SystemExit({code})")
    assert done.returncode == code
    assert done.stdout.splitlines()[0] == said


def test_the_audit_without_a_network_skips_itself_in_one_line(tmp_path: Path) -> None:
    done = audited(tmp_path, "raise ConnectionError('no such host')")
    assert (done.returncode, done.stdout) == (0, "audit skipped: the index cannot be reached\n")


def test_an_audit_that_fails_is_no_audit(tmp_path: Path) -> None:
    done = audited(tmp_path, "raise ValueError('a lock that cannot be read')")
    assert done.returncode == 1
    assert "a lock that cannot be read" in done.stderr


# --- A folder named vfl where Python is started. --------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages' folder of an environment with an editable install of this clone."""
    made = tmp_path_factory.mktemp("site")
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        wheel = buildapi.build_editable(str(made))
    finally:
        os.chdir(before)
    zipfile.ZipFile(made / wheel).extractall(made)
    return made


@pytest.mark.parametrize("how", ["-c", "script", "-m", "stdin"])
def test_a_folder_named_vfl_does_not_hide_an_editable_install(
    site: Path, tmp_path: Path, how: str
) -> None:
    """As in the folder that holds a clone of this repository; Jupyter's kernels begin as stdin does."""
    (tmp_path / "vfl" / "docs").mkdir(parents=True)
    (tmp_path / "shown.py").write_text(f"import site\nsite.addsitedir({str(site)!r})\n{SHOWN}\n")
    program = (tmp_path / "shown.py").read_text()
    words = {"-c": ["-c", program], "script": ["shown.py"], "-m": ["-m", "shown"], "stdin": ["-"]}[how]
    done = subprocess.run(
        [sys.executable, "-S", *words],  # without the packages of the environment that runs the tests
        cwd=tmp_path,
        input=program if how == "stdin" else None,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=True,
    )
    version = PROJECT["project"]["version"]
    assert done.stdout.split() == [str(ROOT / "vfl" / "__init__.py"), version]


# --- A wheel in an environment of its own. --------------------------------------------------------

MOST = 750  # MB of the base install without bytecode, as docs/operations.md says


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this clone."""
    made = tmp_path_factory.mktemp("wheel")
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        return made / buildapi.build_wheel(str(made))
    finally:
        os.chdir(before)


def test_a_wheel_has_all_that_commands_read(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    kept = {str(path.relative_to(ROOT)) for path in (ROOT / "vfl").rglob("*") if path.is_file()}
    kept = {name for name in kept if "__pycache__" not in name}
    assert kept <= {*names}
    assert not [name for name in names if name.startswith(("tests/", "deploy/", "data_samples/"))]


def installed(command: list[str], **settings: Any) -> None:
    """Run an installer; skips where there is no package index."""
    done = subprocess.run(command, capture_output=True, text=True, **settings)
    if done.returncode and "No matching distribution" in done.stdout + done.stderr:
        pytest.skip("no package index is there")
    assert done.returncode == 0, done.stderr


def works(vfl: Path, folder: Path) -> None:
    """A command that needs the packages, in an environment where nothing else is."""
    env = {"PATH": os.defpath, "HOME": str(folder)}
    shown = subprocess.run([vfl, "--version"], capture_output=True, text=True, check=True, env=env)
    assert shown.stdout == f"vfl, version {PROJECT['project']['version']}\n"
    subprocess.run([vfl, "keys", "new", "insurer"], cwd=folder, check=True, env=env, capture_output=True)
    assert (folder / "keys" / "insurer.pem").exists()


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile"]
    installed([*pip, "--only-binary", ":all:", str(wheel)])
    works(python.parent / "vfl", tmp_path)
    missing = "import sys, importlib.util as u; sys.exit(u.find_spec('pytest') is not None)"
    assert subprocess.run([python, "-c", missing]).returncode == 0, (
        "it found this environment's packages"
    )
    packages = next((tmp_path / "venv" / "lib").glob("python3*")) / "site-packages"
    own = [path for path in packages.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    size = sum(path.stat().st_size for path in own if path.relative_to(packages).parts[0] != "pip") / 1e6
    print(f"{size:.0f} MB")
    assert size < MOST


@pytest.mark.slow
def test_the_wheel_works_by_pipx(wheel: Path, tmp_path: Path) -> None:
    pytest.importorskip("pipx", reason="pipx is not installed")
    env = {**os.environ, "PIPX_HOME": str(tmp_path / "home"), "PIPX_BIN_DIR": str(tmp_path / "bin")}
    installed([sys.executable, "-m", "pipx", "install", "--python", sys.executable, str(wheel)], env=env)
    works(tmp_path / "bin" / "vfl", tmp_path)
