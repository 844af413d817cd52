"""Settings that all tests share."""

import signal

from hypothesis import HealthCheck, settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Shells do that to what they start in the background, and all that it starts would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: a machine under load must not fail a test. `print_blob` makes any failure repeatable.
settings.register_profile(
    "house", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("house")
