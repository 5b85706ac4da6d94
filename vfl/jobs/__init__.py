"""What a party does with its table, its store and its peers: align, train, score."""
