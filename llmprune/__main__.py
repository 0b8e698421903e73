"""``python -m llmprune``."""

from llmprune.cli.entry import run

if __name__ == "__main__":
    run()
