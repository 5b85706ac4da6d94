"""The service that scores single rows and small batches while somebody waits, over HTTP."""
