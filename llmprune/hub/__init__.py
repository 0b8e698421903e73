"""Model cards, and everything that talks to the Hugging Face Hub."""
