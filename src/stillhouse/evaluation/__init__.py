"""What is measured of each arm: accuracy, fidelity, calibration, generation quality, cost."""
