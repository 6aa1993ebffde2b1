"""What measures and reproduces: benchmarks and experiments; imports all but the commands."""
