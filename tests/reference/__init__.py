"""The primitives of vfl once more: slow, in plain integers, from their definitions.

Nothing here calls the package. What has a standard of its own and a library everywhere (SHA-2, SHAKE,
BLAKE2b, HMAC, AES) is taken from one; what the project itself computes or puts together is done over.
Each module has `CASES`, what is given, and `ANSWERS`, functions of what is given, by the name of the
case; `python -m tests.reference.write` writes both into tests/known_answers. docs/known_answers.md says
what each case holds.
"""
