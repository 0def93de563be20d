"""What leaves the device, and how it is trained: modules and losses composed."""
