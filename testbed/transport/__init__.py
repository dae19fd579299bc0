"""What travels between processes: typed control messages, and raw tensors with a small header.

Control goes over `ipc://` between the controller and each worker, out of band; data goes over TCP on the
emulated network, from device to device. Nothing here is pickled, and nothing here knows what a message means.
"""
