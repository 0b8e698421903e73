"""Text sources and the token windows drawn from them."""
