"""How searches share the models: owners, batches, caches, threads, and a breaker for what fails."""
