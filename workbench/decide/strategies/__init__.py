"""Merge strategies beyond the three of decide/merge.py; each is a frozen policy of decide/pool.py."""
