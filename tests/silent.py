"""A job that tells nobody anything."""


class Silent:
    """Tells nobody."""

    def say(self, line: str) -> None:
        """Drop the line."""

    def progress(self, what: str, done: int, of: int | None) -> None:
        """Drop the news."""
