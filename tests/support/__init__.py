"""What several tests share: networks, folders, loops and comparisons."""
