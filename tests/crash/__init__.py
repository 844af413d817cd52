"""The crash battery: what kills, power cuts, faults, flipped bits and many processes may do."""
