"""One run, a comparison, a sweep, a dry run, a calibration: here a fleet, a controller and a policy come together."""
