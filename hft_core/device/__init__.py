"""Find the device and the processes that a run computes on, and measure them: ranks, precision, seconds, FLOPs."""
