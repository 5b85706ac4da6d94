"""Where random bytes come from: `secrets.token_bytes`, or a seeded source in tests."""

from collections.abc import Callable

Entropy = Callable[[int], bytes]
