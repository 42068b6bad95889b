"""The asynchronous shell: the only room that knows time, chance, the network and processes."""
