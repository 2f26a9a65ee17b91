"""Make neural networks thrifty, and measure what it cost."""
