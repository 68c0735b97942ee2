"""A fuzzer: random models are converted, and judged by an oracle of its own."""
