"""Where a table's rows come from: one file a kind of source."""
