"""Arms of any kind: the node that owns one, its pace, its faults, and the gate before it."""
