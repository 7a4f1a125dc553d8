"""Helpers that the tests share with the benchmarks; not part of the installed package."""
