"""The twin against real hardware: predicts what others measured on boards, and says how far off it is.

A table of published measurements (`table`) is read as people write it (`names`). Rows of a single board calibrate
rates (`calibration`); an engine is a list of exchanges per layer (`engines`), which the one latency function times
(`prediction`); `comparison` puts each prediction beside the published value and says whether it is scored.
"""
