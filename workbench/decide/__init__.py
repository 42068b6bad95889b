"""Pure choices: no clock, no chance, no file, no network. Everything arrives as an argument."""
