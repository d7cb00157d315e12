"""Benchmarks of the trainer, each against a reference in the same run. `npm run bench` asks for them and prints them."""
