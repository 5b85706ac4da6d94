"""The package, and the slow reference, against the known answers that others are held to as well."""

import hashlib
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gmpy2 import gcd, mpz, primorial
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import agreements, paillier
from reference.write import FILES, FOLDER, document
from test_group import HASHED, INVALID, MULTIPLES

from vfl.crypto.paillier import fit_together
from vfl.party.documents import canonical_json
from vfl.party.identity import create


def cases(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / f"{name}.json").read_text())["cases"]
    return found


def case_of(name: str, what: str) -> dict[str, Any]:
    """The first of a name."""
    return next(case for case in cases(name) if case["case"] == what)


def every_case() -> Iterator[Any]:
    for name in FILES:
        for number, case in enumerate(cases(name), 1):
            yield pytest.param(name, case, id=f"{name} {number}, {case['case']}")


@pytest.mark.parametrize(("name", "case"), list(every_case()))
def test_the_package_gives_the_known_answers(name: str, case: dict[str, Any]) -> None:
    answers = importlib.import_module(f"answered.{name}").ANSWERS
    assert answers[case["case"]](case["given"]) == case["answer"]


@pytest.mark.parametrize("name", FILES)
def test_the_reference_gives_the_known_answers(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == document(name), (
        "python -m tests.reference.write writes what the reference gives now"
    )


def test_there_is_a_file_for_each_module_and_no_other() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.json" for name in FILES}


def test_the_page_names_every_case() -> None:
    page = (Path(__file__).parent.parent / "docs" / "known_answers.md").read_text()
    for name in FILES:
        section = page.partition(f"\n## {name}.json")[2].partition("\n## ")[0]
        assert {case["case"] for case in cases(name) if f"**{case['case']}**" not in section} == set()


def test_the_reference_knows_nothing_of_the_package() -> None:
    code = """
import sys
from tests.reference import write
for name in write.FILES:
    write.importlib.import_module(f"tests.reference.{name}")
sys.exit(any(name.split(".")[0] == "vfl" for name in sys.modules))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def test_the_answers_of_ristretto_are_those_of_the_rfc() -> None:
    multiples = case_of("ristretto", "multiples")["answer"]["encodings"]
    assert multiples[: len(MULTIPLES)] == MULTIPLES
    mapped = case_of("ristretto", "map")
    found = dict(zip(mapped["given"]["uniform"], mapped["answer"]["encodings"], strict=True))
    published = {hashlib.sha512(text).hexdigest(): encoding for text, encoding in HASHED.items()}
    both = published.keys() & found.keys()
    assert len(both) == 3 and all(found[uniform] == published[uniform] for uniform in both)
    refused = case_of("ristretto", "refused")
    given = refused["given"]["encodings"]
    assert set(INVALID) <= set(given)
    assert refused["answer"]["refused"] == [one in [*INVALID, "00" * 32] for one in given]


def test_keys_are_of_the_kind_that_is_generated() -> None:
    primes = [mpz(paillier.prime(name)) for name in paillier.OFFSETS]
    for p in primes:
        assert p % 4 == 3 and p.is_prime(40) and gcd(p * (p >> 1), primorial(1 << 16)) == 1
    assert all(fit_together(p, q) for p, q in zip(primes[::2], primes[1::2], strict=True))


def test_there_are_words_of_every_length() -> None:
    scheme = case_of("lattice", "scheme")["answer"]
    assert [one["word_bits"] for one in scheme["by length of words"]] == [48, 56, 64]


def test_the_reference_signs_as_rfc_6979_and_takes_signatures_of_the_package(tmp_path: Path) -> None:
    # RFC 6979, A.2.5: P-256 with SHA-256, "sample".
    signature = case_of("agreements", "signature")["answer"]["signature"]
    assert agreements.read_der(bytes.fromhex(signature)) == (
        0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716,
        0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8,
    )
    identity = create(tmp_path / "insurer", "insurer")
    numbers = identity.certificate._public.public_numbers()
    made = agreements.read_der(identity.sign(b"terms"))
    assert agreements.holds((numbers.x, numbers.y), *made, b"terms")
    assert not agreements.holds((numbers.x, numbers.y), *made, b"other terms")


texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=10,
)


@settings(max_examples=50)
@given(st.dictionaries(texts, values, max_size=6))
def test_the_reference_writes_any_settings_as_the_package_does(job: dict[str, Any]) -> None:
    assert agreements.canonical(job).encode() == canonical_json(job)
