"""What a ledger shows to who checks it. No private key is needed."""
