"""Real installs and upgrades from servers that are hostile or broken, from end to end."""
