"""The results: a module for each question, and the page docs/results.md that is made from them."""
