"""What ``make release-check`` builds, and how each is checked. One module a thing; ``tools/release_check.py`` runs them."""
