"""The controller: it generates tokens, replays traces, asks the policy and has blocks moved.

It drives any `Fleet` through one protocol and never knows which one. Rules stand apart from I/O: migrations and
announced memory changes are state machines of their own.
"""
