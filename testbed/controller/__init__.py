"""The controller: it generates tokens, replays traces, asks the policy, and has blocks moved.

It drives any `Fleet` through one protocol and never knows which one. What it decides by rules stands apart
from what it does: migration and memory announcements are state machines of their own.
"""
