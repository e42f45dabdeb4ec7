"""The member of a swap group: it shares its devices with other workers of this machine."""
