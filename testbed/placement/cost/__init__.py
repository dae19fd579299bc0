"""What a placement costs and whether it fits.

`model` sums half-layers up to tokens, migrations and intervals. `memory` says what fits, by `packing`. `forecast`
predicts many tokens at once, and `paths` numbers links and paths. `tables`, `kernel` and `machine_code` are the
compiled copy of `testbed.placement.latency` for the searches.
"""
