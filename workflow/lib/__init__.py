"""The library behind the rules: one room per paper, one file per optimizer, one command line."""
