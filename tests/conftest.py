"""Settings that all tests share."""

from hypothesis import HealthCheck, settings

# No deadline: a machine under load must not fail a test. `print_blob` makes any failure repeatable.
settings.register_profile(
    "house", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("house")
