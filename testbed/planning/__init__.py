"""What a buyer asks: whether a model fits on some devices, how fast it would be, and what another device would change.

`fleet` reads the devices, `rates` says how fast boards were measured to be, `ways` cuts and places the model, `changes`
adds and removes devices, `intervals` says how far off such predictions were, and `plan` puts the answer together. Every
time comes from the cost model and every rate from a topology or from `validation`; no formula is here.
"""
