"""What this machine can emulate, found by trying it, and how well."""
