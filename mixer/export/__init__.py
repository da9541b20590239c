"""Models as files that other runtimes execute; each is read back before it gets its name."""
