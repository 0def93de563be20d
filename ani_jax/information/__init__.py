"""How much features tell about images in nats: critics, estimates with their self-tests, the inversion-difficulty criterion."""
