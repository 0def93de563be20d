"""What leaves this repository: a trained client and its server as files that run without the code that trained them."""
