"""Work shared out: stages, units, the runner that keeps what is done, the journal of what was paid for, processes and Ray."""
