"""What a placement costs and whether it fits: the one definition of latency, its compiled copy, memory, forecasts."""
