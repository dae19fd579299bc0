"""What travels between processes: typed control messages, and raw tensors with a small header.

Control messages go over `ipc://` between the controller and each worker, apart from the emulated network. Data goes
over that network, from device to device. Nothing here is pickled, and nothing here knows what a message means.
"""
