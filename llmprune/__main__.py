"""``python -m llmprune``."""

from llmprune.cli.app import main

if __name__ == "__main__":
    main()
