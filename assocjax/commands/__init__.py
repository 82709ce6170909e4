"""What each command of the command line does: it calls the library and prints."""
