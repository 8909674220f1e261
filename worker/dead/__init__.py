"""Going through the dead letters: listed, replayed, discarded. For the command line and for the console."""
