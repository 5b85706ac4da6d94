"""Known vulnerabilities of the locked versions: python .ci/audit.py requirements/dev.txt

Asks the package index by way of pip-audit, and ends with exit code 1 if it knows of one. Where the index
cannot be asked, one line says so and the exit code is 0, so that lint can be run without a network.
"""

import json
import re
import subprocess
import sys

# Vulnerabilities that do not touch this project, by id: why not.
ACCEPTED: dict[str, str] = {}

SECONDS = 60  # of all questions together; answers are cached
UNREACHABLE = re.compile(
    r"Could not connect|ConnectionError|ProxyError|Timeout|NameResolutionError|SSLError"
)


def main() -> int:
    """Ask about every package of a lock file."""
    lock = sys.argv[1]
    command = [sys.executable, "-m", "pip_audit", "--requirement", lock, "--require-hashes"]
    command += ["--disable-pip", "--format", "json", "--progress-spinner", "off", "--timeout", "5"]
    command += [word for name in ACCEPTED for word in ("--ignore-vuln", name)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return skipped(f"no answer within {SECONDS} s")
    try:
        found = json.loads(done.stdout)["dependencies"]
    except ValueError:
        if UNREACHABLE.search(done.stderr):
            return skipped("the index cannot be reached")
        print(done.stderr, file=sys.stderr)
        return 1
    asked = [package for package in found if "skip_reason" not in package]
    if not asked:
        return skipped("this index knows of no vulnerabilities")
    for package in asked:
        for one in package["vulns"]:
            fixed = ", ".join(one["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {one['id']}, mended in {fixed}")
    bad = sum(bool(package["vulns"]) for package in asked)
    print(f"audit: asked about {len(asked)} of {len(found)} packages, {bad} with known vulnerabilities")
    if bad:
        print("`make lock` takes newer versions; CONTRIBUTING.md says what to do where there is none")
    return int(bad > 0)


def skipped(why: str) -> int:
    """Say that nothing was learnt."""
    print(f"audit skipped: {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
