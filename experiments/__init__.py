"""Commands: absl flags -> a frozen config -> a library call."""
