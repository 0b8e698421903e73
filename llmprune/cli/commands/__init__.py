"""One file a command: parse the options, call one stage, show the result."""
