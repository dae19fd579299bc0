"""Building a placement block by block and improving it: what policies share that work on a draft."""
