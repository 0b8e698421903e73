"""``python -m llmprune``."""

from llmprune.cli.entry import main

if __name__ == "__main__":
    main()
