"""What an attacker may want. A target is a file: how a guess is scored, what it is read against, how a report says it."""
