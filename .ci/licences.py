"""Licences of what an install brings: python .ci/licences.py requirements/run.txt requirements/image.txt

Reads what each locked package says of itself where it is installed. Ends with exit code 1 for a licence
that is neither permissive nor accepted here with a reason, or that is not said.
"""

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

PERMISSIVE = {
    "0BSD",
    "Apache-2.0",
    "BSD",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CNRI-Python",
    "ISC",
    "MIT",
    "MIT-0",
    "MIT-CMU",
    "PSF-2.0",
    "Python-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "bzip2-1.0.6",
}
# Others, by package: why its users may have it.
ACCEPTED = {
    "phe": "GPL-3: only vfl.crypto.interchange imports it, which nothing imports; not in the image",
    "gmpy2": "LGPL-3.0-or-later: a shared library of its own, used as it is published",
    "certifi": "MPL-2.0: the list of authorities as Mozilla publishes it, not changed",
}
# What older metadata says in words, or in classifiers.
WORDS = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "BSD",
    "bsd license": "BSD",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd 3-clause license": "BSD-3-Clause",
    "bsd-3-clause license": "BSD-3-Clause",
    "dual license": "Apache-2.0 OR BSD-3-Clause",
    "historical permission notice and disclaimer (hpnd)": "MIT-CMU",
    "isc license (iscl)": "ISC",
    "matplotlib license": "PSF-2.0",
    "mit license": "MIT",
    "psf": "PSF-2.0",
    "python software foundation license": "PSF-2.0",
    "the mit license (mit)": "MIT",
}


def named(lock: Path) -> list[str]:
    """The packages of a lock file."""
    return re.findall(r"(?m)^([A-Za-z0-9._-]+)==", lock.read_text())


def licence_of(package: Distribution) -> str:
    """An expression, empty where none is said."""
    said = package.metadata
    if expression := said.get("License-Expression"):
        return expression
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in said.get_all("Classifier") or []
        if line.startswith("License :: ") and line != "License :: OSI Approved"
    ]
    found = [WORDS.get(words.lower(), words) for words in classifiers]
    text = (said.get("License") or "").strip()
    if not found and text and "\n" not in text and len(text) < 80:
        found = [WORDS.get(text.lower(), text)]
    return " AND ".join(dict.fromkeys(found))


def is_permissive(expression: str) -> bool:
    """Whether one may choose permissive licences for all of it. Exceptions only widen."""
    plain = re.sub(r"\bWITH\s+[\w.-]+", "", expression)
    words = [word.strip() for word in re.split(r"(\(|\)|\bAND\b|\bOR\b)", plain)]
    signs = {"(": "(", ")": ")", "AND": " and ", "OR": " or "}
    return _holds("".join(signs.get(word, str(word in PERMISSIVE)) for word in words if word))


def _holds(text: str) -> bool:
    """The value of True and False with and, or, brackets; False for what is none."""
    while (found := re.search(r"\(([^()]*)\)", text)) is not None:
        text = text[: found.start()] + str(_holds(found[1])) + text[found.end() :]
    return any(
        all(part.strip() == "True" for part in every.split(" and ")) for every in text.split(" or ")
    )


def main() -> int:
    """Check each package of the lock files that are named."""
    names = sorted({name for lock in sys.argv[1:] for name in named(Path(lock))})
    bad, missing = [], []
    for name in names:
        try:
            package = distribution(name)
        except PackageNotFoundError:
            missing.append(name)  # for another machine
            continue
        expression = licence_of(package)
        accepted = ACCEPTED.get(name)
        fine = accepted is not None or (bool(expression) and is_permissive(expression))
        print(
            f"{name} {package.version}: {expression or 'not said'}{f' ({accepted})' if accepted else ''}"
        )
        if not fine:
            bad.append(name)
    print(f"licences: {len(names) - len(missing)} packages, {len(bad)} to look at", end="")
    print(f", not installed here: {', '.join(missing)}" if missing else "")
    for name in bad:
        print(f"error: {name} has no licence that is accepted: say in .ci/licences.py why it may be")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
