"""Runs models inside an environment: engines, and the references they are held against. Python 3.6 to 3.13."""
