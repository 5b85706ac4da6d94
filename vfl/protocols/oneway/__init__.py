"""Tables of the guest's sums by the levels of hosts' factors."""
