"""What other programs can talk to: the fault lab, a simulated provider on loopback."""
