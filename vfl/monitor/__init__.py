"""What a party's own people see of its jobs beside the log: figures, traces, experiments."""
