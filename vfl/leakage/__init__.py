"""What a party that follows the protocol can work out from what a run shows it, beside guessing."""
