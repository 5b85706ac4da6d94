"""A web page of one party: what waits for a person, what runs, what was done."""
