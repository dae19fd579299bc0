"""The measured answers: one module per question, and the page made of them (docs/results.md)."""
