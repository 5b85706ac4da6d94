"""Which rows of the parties' tables are about the same thing."""
