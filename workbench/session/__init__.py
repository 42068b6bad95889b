"""What a notebook holds: Workbench, Run, Comparison. Wires the rooms together."""
