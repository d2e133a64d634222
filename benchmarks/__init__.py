"""Event loops side by side: python -m benchmarks, in the project's root. README.md says how, and what the figures mean."""
