"""Who is in the network: devices, their links, and where the prompt enters."""
