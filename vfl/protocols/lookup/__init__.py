"""SecureBoost: trees of all parties' columns."""
