"""The log: spool files in front, DuckDB behind, one lock around every open."""
