"""What a placement costs and whether it fits.

`latency` defines how long a half-layer takes, `all_to_all` the same without a hub, and `model` sums them up to tokens,
migrations and intervals. `memory` says what fits, by `packing`. `forecast` predicts many tokens at once, and `paths`
numbers links and paths. `tables`, `kernel` and `machine_code` are the compiled copy of `latency` for the searches.
"""
